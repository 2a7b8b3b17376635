# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Where a tab takes one image: an upload, or an example."""

import gradio as gr
from PIL import Image

from ..pictures import grey_picture
from .uploads import examples, read_upload


def image_input() -> gr.File:
    """
    The field for an upload and the examples below it, which fill it; called while the page is built.

    Returns:
        The field: its value is a path, and its event `change` tells of uploads, of examples, and of `None`.
    """

    file = gr.File(label="Image", file_count="single", type="filepath", height=150)
    pictures = [Image.fromarray(grey_picture(read_upload(path))) for path in examples()]
    dataset = gr.Dataset(
        components=[gr.Image(visible=False)],
        samples=[[picture] for picture in pictures],
        label="Examples",
        type="index",
        layout="gallery",
    )
    dataset.click(lambda index: examples()[index], dataset, file, show_progress="hidden", api_visibility="private")
    return file


__all__ = ["image_input"]
