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
    Raises:
        ValueError: if it is no name of the form USER/NAME that the Hub accepts.
    """
    if repo_id.count("/") != 1:
        raise ValueError(f"{repo_id!r} is no name on the Hub: it has the form USER/NAME, such as me/unip-small-soda.")
    try:
        validate_repo_id(repo_id)
    except ValueError as error:
        raise ValueError(f"{repo_id!r} is no name on the Hub: {error}") from error


def check_login() -> None:
    """
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
    Uploads all files of a folder in one commit, into a repository that is made if there is none.

    Args:
        folder: What to upload.
        repo_id: `"USER/NAME"`.
        is_public: Whether a new repository is public. One that is there stays what it is.
        repo_type: `"model"`, `"dataset"` or `"space"`.
        revision: Branch, which is made if there is none; by default main.
        commit_message: By default the Hub's own.
        replaced_patterns: Which files of earlier uploads go if the folder has them no more; all others stay.
        repo_settings: More for `HfApi.create_repo`, such as `space_sdk`.

    Returns:
        A sentence on what was done, with the address.

    Raises:
        OSError: if the Hub cannot be reached or refuses.
        ValueError: if the repository is there and public, but that was not asked for; nothing is uploaded then.
    """
    api = HfApi()
    try:
        url = api.create_repo(repo_id, repo_type=repo_type, private=not is_public, exist_ok=True, **repo_settings)
        is_private = bool(api.repo_info(repo_id, repo_type=repo_type).private)
        if not is_private and not is_public:
            raise ValueError(
                f"{repo_id!r} is there already, and everyone can see it: add --public, or choose another."
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
    except (HTTPError, OSError, RuntimeError) as error:  # the Hub's answers; no network; the transfer of large files
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OSError(f"The upload to {repo_id!r} failed: {reason}") from error
    return f"Uploaded to {url}, which is {'private' if is_private else 'public'}."


__all__ = ["check_login", "check_repo_id", "upload_folder"]
