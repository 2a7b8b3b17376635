# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Where the demo keeps files: one folder of the process, emptied of what is old, gone with the process."""

import atexit
import hashlib
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
    """The folder, made when first asked for; it vanishes when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="unip-demo-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def session_folder(request: gr.Request) -> Path:
    """Where the results of a visitor's page lie; made by who writes there first."""
    name = hashlib.sha256(str(request.session_hash).encode()).hexdigest()  # what a client sends is no name of a folder
    return temporary_folder() / "sessions" / name


def close_session(request: gr.Request) -> None:
    """Deletes the results of a visitor's page; called when it is closed."""
    shutil.rmtree(session_folder(request), ignore_errors=True)


def delete_old_files(folder: Path, seconds: float, kept: frozenset[Path] = frozenset()) -> None:
    """Deletes all that did not change for so long, with the folders that this empties; `kept` stays."""
    now = time.time()
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder before the folder
        try:
            if path in kept or now - path.lstat().st_ctime < seconds:
                continue
            path.rmdir() if path.is_dir() else path.unlink()
        except OSError:  # not empty, or just deleted by someone else
            continue


def keep_deleting(every: float = 60, seconds: float = KEPT_SECONDS + 120) -> None:
    """
    Starts to delete old files, in a thread; what is there now stays, since it belongs to the page. By default a little
    later than gradio deletes the files that it knows of.
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
