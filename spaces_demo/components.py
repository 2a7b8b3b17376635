# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Parts of the page that stand in several tabs."""

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from PIL import Image

from ..pictures import grey_picture, segmentation_palette
from .models import Models
from .uploads import examples, read_upload


def model_choice(models: Models) -> gr.Dropdown:
    """The field for the model, hidden if there is only one."""
    return gr.Dropdown(models.names, label="Model", visible=len(models.names) > 1, interactive=True)


def result_picture(label: str, **settings: Any) -> gr.Image:
    """A picture that cannot be edited, without loss."""
    return gr.Image(label=label, format="png", interactive=False, buttons=["fullscreen"], **settings)


def gallery(pictures: Sequence[Image.Image], label: str = "Examples", **settings: Any) -> gr.Dataset:
    """Pictures to click on; its event `click` gives the number of the picture, from 0."""
    return gr.Dataset(
        components=[gr.Image(visible=False)],
        samples=[[picture] for picture in pictures],
        label=label,
        type="index",
        layout="gallery",
        **settings,
    )


def example_pictures() -> list[Image.Image]:
    """What the eye can see of the examples."""
    return [Image.fromarray(grey_picture(read_upload(path))) for path in examples()]


def image_input() -> gr.File:
    """
    The field for the upload of one image, with the examples below it, which fill it.

    Returns:
        The field. Its value is a path; its event `change` comes with uploads, with examples, and with `None`.
    """
    file = gr.File(label="Image", file_count="single", type="filepath", height=150)
    pictures = gallery(example_pictures())
    pictures.click(lambda index: examples()[index], pictures, file, show_progress="hidden", api_visibility="private")
    return file


def swatch(index: int, labels: Mapping[int, str]) -> str:
    """The colour of a class in overlays as HTML; a class named "background" has none."""
    if labels[index].lower() == "background":
        return '<span class="swatch"></span>'
    colour = tuple(segmentation_palette(max(labels) + 1)[index].tolist())
    return f'<span class="swatch" style="background: rgb{colour}"></span>'


def percent(share: float) -> str:
    """A share of 0 to 1 in HTML."""
    return f"{share:.1%}" if share >= 0.001 else "&lt; 0.1%"


__all__ = ["example_pictures", "gallery", "image_input", "model_choice", "percent", "result_picture", "swatch"]
