# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The page: its tabs, its looks, and how it is served."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from .about_tab import about_tab
from .attention_tab import attention_tab
from .compare_tab import compare_tab
from .models import Models
from .segment_tab import segment_tab
from .temporary import KEPT_SECONDS, close_session
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


def build_interface(models: Models) -> gr.Blocks:
    """
    The page for some models. `launch` it with [`launch_settings`].

    Args:
        models: At least one.
    """
    with gr.Blocks(
        title="UNIP: infrared segmentation",
        analytics_enabled=False,
        delete_cache=(60, KEPT_SECONDS),  # of uploads and of what gradio copied to show it
    ) as blocks:
        gr.Markdown("# Infrared semantic segmentation", elem_id="title")
        for name, build_tab in TABS.items():
            with gr.Tab(name):
                build_tab(models)
        blocks.unload(close_session)
    return blocks.queue(max_size=MAX_WAITING)


def launch_settings() -> dict[str, Any]:
    """Keyword arguments of `gr.Blocks.launch`: looks without a font from elsewhere, and limits."""
    theme = gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=SYSTEM_FONTS, font_mono=["monospace"])
    return {
        "theme": theme,
        "css_paths": Path(__file__).with_name("style.css"),
        "max_file_size": MAX_FILE_SIZE,
        "state_session_capacity": MAX_SESSIONS,
        "show_error": True,
        "ssr_mode": False,
        "footer_links": [],
    }


__all__ = ["build_interface", "launch_settings"]
