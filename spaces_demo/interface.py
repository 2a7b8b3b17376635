# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The page: its tabs, its looks, and how it is served."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import gradio as gr
from transformers.utils import logging

from .about_tab import about_tab
from .attention_tab import attention_tab
from .compare_tab import compare_tab
from .guard import APP_SETTINGS, GuardedBlocks
from .models import Models
from .segment_tab import segment_tab
from .temporary import KEPT_SECONDS, close_session, keep_deleting, temporary_folder
from .uploads import MAX_FILE_SIZE


TABS: dict[str, Callable[[Models], None]] = {
    "Segment": segment_tab,
    "Attention": attention_tab,
    "Compare": compare_tab,
    "About": about_tab,
}
SYSTEM_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif"]
MAX_WAITING = 50  # requests in the queue
MAX_SESSIONS = 60  # pages that are kept in memory, open or closed: more than can wait
M_ARENA_MAX = -8  # of malloc.h of glibc, the C library of most Linux systems


def build_interface(models: Models) -> gr.Blocks:
    """The page for these models, of which there must be at least one."""
    # delete_cache: how often uploads and the copies that gradio shows are looked through, and how long they are kept.
    with GuardedBlocks(title="UNIP: infrared segmentation", delete_cache=(60, KEPT_SECONDS)) as blocks:
        gr.Markdown("# Infrared semantic segmentation", elem_id="title")
        for name, build_tab in TABS.items():
            with gr.Tab(name):
                build_tab(models)
        blocks.unload(close_session)
    return blocks.queue(max_size=MAX_WAITING, api_open=False)  # nobody skips the queue


def serve(names: Sequence[str], host: str | None = None, port: int | None = None, share: bool = False) -> None:
    """
    Loads models and serves the page until the process is interrupted or terminated. Nothing is reported to anyone.

    Args:
        names: Models: folders, exported files, or names on the Hub. The first one is shown.
        host (*optional*): Address to listen at. By default only this machine can reach the page.
        port (*optional*): By default the first free one from 7860.
        share: Whether to make the page public for a week, through gradio.live.

    Raises:
        OSError: if there is no such folder or model.
        ValueError: if a model is not a segmentation model.
    """
    with suppress(OSError, AttributeError):  # another C library
        # One memory pool for all threads: with one for each thread, memory grows with every round of requests.
        ctypes.CDLL("libc.so.6").mallopt(M_ARENA_MAX, 1)
    logging.disable_progress_bar()
    models = Models(names)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(temporary_folder() / "gradio")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that temporary files are deleted
    blocks = build_interface(models)
    keep_deleting()
    blocks.launch(
        server_name=host,
        server_port=port,
        share=share,
        # Looks without a font from elsewhere.
        theme=gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=SYSTEM_FONTS, font_mono=["monospace"]),
        css_paths=Path(__file__).with_name("style.css"),
        max_file_size=MAX_FILE_SIZE,
        state_session_capacity=MAX_SESSIONS,
        app_kwargs=APP_SETTINGS,
        show_error=False,  # but for what is raised as gr.Error
        enable_monitoring=False,
        mcp_server=False,
        run_history=False,
        ssr_mode=False,
        footer_links=[],
    )


__all__ = ["build_interface", "serve"]
