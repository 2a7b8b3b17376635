# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The tab that segments an image twice, with two models or two intensity scalings, and shows where they differ."""

from typing import Any

import gradio as gr
import numpy as np
from gradio.components import Component

from ..inference.exported import EndToEndModel
from ..modeling.image_processing_unip import UnipImageProcessor
from .comparison import (
    SegmentedImage,
    agreement,
    difference_picture,
    differing_pixels,
    segment,
    share_table,
    with_scaling,
)
from .components import image_input, result_picture
from .models import Models, on_gpu
from .uploads import computing_errors, error_message, read_upload


AS_CONFIGURED = "as_configured"
SCALINGS = [
    ("as set for the model", AS_CONFIGURED),
    ("percentiles of the image", "percentiles"),
    ("two fixed values", "fixed_range"),
    ("full range of 8 or 16 bits", "dtype_range"),
]
TABLE_STYLE = """
table, tbody { border: none; }
tr, th, td { border: none; padding: 0.15rem 1.5rem 0.15rem 0; font-variant-numeric: tabular-nums; }
"""


def compare_tab(models: Models) -> None:
    """Builds the tab inside the page under construction."""

    @on_gpu
    def segment_twice(image: np.ndarray, *sides: tuple[str, UnipImageProcessor]) -> list[SegmentedImage]:
        return [segment(models.get(name)[0], processor, image) for name, processor in sides]

    def compare(path: str | None, *values: Any) -> tuple:
        if path is None:
            raise error_message("Choose an image first.")
        image = read_upload(path)
        with computing_errors():
            first, second = segment_twice(image, _chosen(models, *values[:6]), _chosen(models, *values[6:]))
        is_different = differing_pixels(first, second)
        if is_different is None:
            where = gr.update(visible=False)
        else:
            where = gr.update(value=difference_picture(image, is_different), visible=True)
        return first.picture, second.picture, agreement(is_different), share_table(first, second), where

    second_scaling = AS_CONFIGURED if len(models.names) > 1 else "percentiles"
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            gr.Markdown("Two models, or two scalings of the intensities, on one infrared image.")
            file = image_input()
            settings = [
                *_side("First", models, models.names[0], AS_CONFIGURED, file),
                *_side("Second", models, models.names[-1], second_scaling, file),
            ]
            button = gr.Button("Compare", variant="primary")
        with gr.Column(scale=3, min_width=300):
            with gr.Row():
                pictures = [result_picture(title, min_width=280) for title in ("First", "Second")]
            summary = gr.Markdown(elem_id="agreement")
            with gr.Row():
                with gr.Column(min_width=280):
                    table = gr.HTML(css_template=TABLE_STYLE, padding=False, elem_id="shares")
                with gr.Column(min_width=280):
                    where = result_picture("Where they differ", visible=False, elem_id="differences")
    button.click(
        compare,
        [file, *settings],
        [*pictures, summary, table, where],
        concurrency_limit=1,
        concurrency_id="model",
        show_progress_on=pictures,
        api_visibility="private",
    )


def _side(title: str, models: Models, name: str, scaling: str, file: gr.File) -> list[Component]:
    """The settings of one of the two, in the order of the arguments of [`_chosen`]."""

    def show_numbers(scaling: str, path: str | None, low: float | None, high: float | None) -> tuple:
        is_fixed = scaling == "fixed_range"
        numbers = (gr.skip(), gr.skip())  # what was typed meanwhile stays
        if is_fixed and path is not None and low is None and high is None:
            image = read_upload(path)
            numbers = (image.min().item(), image.max().item())
        return gr.Row(visible=scaling == "percentiles"), gr.Row(visible=is_fixed), *numbers

    with gr.Group():
        model = gr.Dropdown(models.names, value=name, label=f"{title}: model", interactive=True)
        scales = gr.Dropdown(SCALINGS, value=scaling, label=f"{title}: intensity scaling", interactive=True)
        with gr.Row(visible=scaling == "percentiles") as ranks_row:
            ranks = [
                gr.Number(value, label=label) for value, label in ((0, "lower percentile"), (100, "upper percentile"))
            ]
        with gr.Row(visible=False) as range_row:
            value_range = [gr.Number(None, label=label) for label in ("lowest value", "highest value")]
    scales.input(
        show_numbers,
        [scales, file, *value_range],
        [ranks_row, range_row, *value_range],
        show_progress="hidden",
        api_visibility="private",
    )
    return [model, scales, *ranks, *value_range]


def _chosen(
    models: Models,
    name: str,
    scaling: str,
    lower_rank: float | None,
    upper_rank: float | None,
    lowest: float | None,
    highest: float | None,
) -> tuple[str, UnipImageProcessor]:
    """A model by name, and its image processor with the chosen scaling."""
    model, processor = models.get(name)
    if scaling == AS_CONFIGURED:
        return name, processor
    if isinstance(model, EndToEndModel):
        raise ValueError(f"{name} scales intensities itself, as an end-to-end file: that cannot be chosen.")
    if scaling == "dtype_range":
        return name, with_scaling(processor, scaling)
    low, high = (lower_rank, upper_rank) if scaling == "percentiles" else (lowest, highest)
    if low is None or high is None:
        raise ValueError("This scaling needs two numbers: fill in both.")
    return name, with_scaling(processor, scaling, (low, high))


__all__ = ["compare_tab"]
