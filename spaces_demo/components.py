# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What several tabs show: the choice of a model, an image with examples, the colours and shares of classes."""

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from ..pictures import grey_picture, segmentation_palette
from .models import Models
from .uploads import example_pairs, examples, read_upload


# Keyword arguments of events: those that take no time, and those in which a model computes, one at a time.
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
COMPUTING: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model", "api_visibility": "private"}


def model_choice(models: Models) -> gr.Dropdown:
    """The field that chooses a model, hidden where there is only one."""
    return gr.Dropdown(models.names, label="Model", visible=len(models.names) > 1, interactive=True)


def example_pictures() -> list[np.ndarray]:
    """The examples as the eye can see them: uint8 arrays of shape `(height, width, 3)`."""
    return [grey_picture(read_upload(path)) for path in examples()]


def example_pair_pictures() -> list[np.ndarray]:
    """The example pairs, infrared and visible side by side: uint8 arrays of shape `(height, width, 3)`."""
    return [
        np.hstack([grey_picture(read_upload(infrared)), read_upload(visible)]) for infrared, visible in example_pairs()
    ]


def example_gallery(pictures: Sequence[np.ndarray], label: str, **settings: Any) -> gr.Dataset:
    """Pictures to click on; the value is the index of the one that was clicked."""
    return gr.Dataset(
        components=[gr.Image(visible=False)],
        samples=[[Image.fromarray(picture)] for picture in pictures],
        label=label,
        type="index",
        layout="gallery",
        **settings,
    )


def image_input() -> gr.File:
    """
    The field for one image, and the examples below it, which fill it.

    Returns:
        The field. Its value is a path. Its event `change` tells of uploads, of examples, and of `None`.
    """
    file = gr.File(label="Image", file_count="single", type="filepath", height=150)
    gallery = example_gallery(example_pictures(), "Examples")
    gallery.click(lambda index: examples()[index], gallery, file, **QUIET)
    return file


def pair_input() -> tuple[gr.File, gr.File]:
    """The fields for an infrared and a visible image, and the examples below them, which fill both."""
    files = [
        gr.File(label=label, file_count="single", type="filepath", height=150)
        for label in ("Infrared image", "Visible image, for models of pairs")
    ]
    gallery = example_gallery(example_pair_pictures(), "Examples")
    gallery.click(lambda index: list(example_pairs()[index]), gallery, files, **QUIET)
    return files[0], files[1]


def picture_output(**settings: Any) -> gr.Image:
    """A picture that can be enlarged and not changed."""
    return gr.Image(format="png", interactive=False, buttons=["fullscreen"], **settings)


def swatch(index: int, labels: Mapping[int, str]) -> str:
    """The colour of a class as HTML. As in overlays, a class named "background" has none."""
    if labels[index].lower() == "background":
        return '<span class="swatch"></span>'
    red, green, blue = segmentation_palette(max(labels) + 1)[index]
    return f'<span class="swatch" style="background: rgb({red}, {green}, {blue})"></span>'


def percent(share: float) -> str:
    """A share of 0 to 1 as HTML."""
    return f"{share:.1%}" if share >= 0.001 else "&lt; 0.1%"


__all__ = [
    "COMPUTING",
    "QUIET",
    "example_gallery",
    "example_pair_pictures",
    "example_pictures",
    "image_input",
    "model_choice",
    "pair_input",
    "percent",
    "picture_output",
    "swatch",
]
