# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Where the demo keeps files: one folder, from which old files are deleted, and which is deleted with the process."""

import atexit
import hashlib
import os
import shutil
import tempfile
import threading
import time
from functools import lru_cache
from pathlib import Path

import gradio as gr


KEPT_SECONDS = 30 * 60  # for which uploads and results are kept while a page stays open


@lru_cache(maxsize=1)
def temporary_folder() -> Path:
    """The folder, which is made at the first call and deleted when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="unip-demo-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def session_folder(request: gr.Request) -> Path:
    """The folder with the results of a visitor's page. Whoever writes there first has to make it."""
    # What a client sends is not used as the name of a folder.
    name = hashlib.sha256(str(request.session_hash).encode()).hexdigest()
    return temporary_folder() / "sessions" / name


def close_session(request: gr.Request) -> None:
    """Deletes the results of a visitor's page when it is closed."""
    shutil.rmtree(session_folder(request), ignore_errors=True)


def delete_old_files(folder: Path, seconds: float, kept: frozenset[Path] = frozenset()) -> None:
    """Deletes files that have not changed for so long, and folders that this empties. What is in `kept` stays."""
    now = time.time()
    # What is in a folder before the folder; unlike rglob(), walk() bears that a folder is deleted while it looks.
    for parent, folders, files in os.walk(folder, topdown=False):
        for path in (Path(parent, name) for name in (*files, *folders)):
            try:
                if path in kept or now - path.lstat().st_ctime < seconds:
                    continue
                path.rmdir() if path.is_dir() else path.unlink()
            except OSError:  # not empty, or just deleted by someone else
                continue


def keep_deleting(every: float = 60, seconds: float = KEPT_SECONDS + 120) -> None:
    """
    Starts a thread that deletes old files, by default a little later than gradio deletes the files that it knows of.
    What is there now belongs to the page and stays.
    """
    kept = frozenset(temporary_folder().rglob("*"))

    def run() -> None:
        while True:
            time.sleep(every)
            delete_old_files(temporary_folder(), seconds, kept)

    threading.Thread(target=run, daemon=True).start()


__all__ = [
    "KEPT_SECONDS",
    "close_session",
    "delete_old_files",
    "keep_deleting",
    "session_folder",
    "temporary_folder",
]
