# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Uploads a folder to the Hub, privately unless asked otherwise."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import validate_repo_id


def check_repo_id(repo_id: str) -> None:
    """
    Checks the name of a repository without asking the Hub.

    Raises:
        ValueError: if it is not a name of the form USER/NAME that the Hub accepts.
    """
    if repo_id.count("/") != 1:
        raise ValueError(f"{repo_id!r} is not a name on the Hub, which has the form USER/NAME, like me/unip-soda.")
    try:
        validate_repo_id(repo_id)
    except ValueError as error:
        raise ValueError(f"{repo_id!r} is not a name on the Hub: {error}") from error


def check_login() -> None:
    """
    Checks that there is a token, without asking the Hub.

    Raises:
        OSError: if nobody is logged in.
    """
    if get_token() is None:
        raise OSError(
            "Nobody is logged in to the Hub: run `hf auth login`, or set HF_TOKEN to a token that may write."
        )


def upload_folder(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    is_public: bool = False,
    repo_type: str = "model",
    revision: str | None = None,
    commit_message: str | None = None,
    replaced_patterns: Sequence[str] = (),
    **repo_settings: Any,
) -> str:
    """
    Uploads all files of a folder in one commit. The repository is made if there is none.

    Args:
        folder: Folder to upload.
        repo_id: `"USER/NAME"`.
        is_public: Whether a new repository is public. An existing one stays private or public.
        repo_type: `"model"`, `"dataset"` or `"space"`.
        revision: Branch, which is made if there is none; by default main.
        commit_message: By default the Hub's own.
        replaced_patterns: Files of earlier uploads that are deleted if the folder does not have them any more. All
            others stay.
        repo_settings: Further arguments of `HfApi.create_repo`, such as `space_sdk`.

    Returns:
        A sentence on what was done, with the address.

    Raises:
        OSError: if the Hub cannot be reached or refuses.
        ValueError: if the repository exists and is public, but `is_public` is not set. Nothing is uploaded then.
    """
    api = HfApi()
    try:
        url = api.create_repo(repo_id, repo_type=repo_type, private=not is_public, exist_ok=True, **repo_settings)
        is_private = bool(api.repo_info(repo_id, repo_type=repo_type).private)
        if not is_private and not is_public:
            raise ValueError(
                f"{repo_id!r} exists already, and everyone can see it: add --public, or choose another name."
            )
        if revision is not None:
            api.create_branch(repo_id, repo_type=repo_type, branch=revision, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            folder_path=Path(folder),
            repo_type=repo_type,
            revision=revision,
            commit_message=commit_message,
            delete_patterns=list(replaced_patterns) or None,
        )
    except (HTTPError, OSError, RuntimeError) as error:  # answers of the Hub; no network; large files
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OSError(f"The upload to {repo_id!r} failed: {reason}") from error
    return f"Uploaded to {url}, which is {'private' if is_private else 'public'}."


__all__ = ["check_login", "check_repo_id", "upload_folder"]
