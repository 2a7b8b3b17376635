# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Starts the page: what `unip demo` and the app of a Space both call."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path


QUICKSTART = Path("outputs/quickstart/best")


def serve(
    models: Sequence[str] | None = None, host: str | None = None, port: int | None = None, share: bool = False
) -> None:
    """
    Serves the page until the process is stopped.

    Args:
        models: Folders of semantic segmentation models, exported files, or names on the Hub; by default the
            quickstart's model.
        host: Address to listen at; by default only this machine reaches the page.
        port: By default the first free one from 7860.
        share: Whether to make the page public for a week, through gradio.live.

    Raises:
        OSError: if there is no such model.
        ValueError: if one is not a segmentation model, gradio is not installed, or the quickstart was not run here.
    """
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ValueError('The demo needs gradio: pip install ".[demo]" in the folder of this project.') from error
    if models is None and not QUICKSTART.is_dir():
        raise ValueError(
            f"There is no {str(QUICKSTART)!r} here: run `unip quickstart` first (three minutes, offline), or name a "
            "model with --model."
        )
    from transformers.utils import logging

    from .interface import build_interface, launch_settings
    from .models import Models
    from .temporary import keep_deleting, temporary_folder

    logging.disable_progress_bar()
    loaded = Models(models or [str(QUICKSTART)])
    os.environ["GRADIO_TEMP_DIR"] = str(temporary_folder() / "gradio")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that temporary files are deleted
    interface = build_interface(loaded)
    keep_deleting()
    interface.launch(server_name=host, server_port=port, share=share, **launch_settings())


__all__ = ["QUICKSTART", "serve"]
