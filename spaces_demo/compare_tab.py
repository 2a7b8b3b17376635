# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
The tab that segments an image twice, with two models, two intensity scalings, or both images of a pair and one of them
alone, and shows where they differ.
"""

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
from .components import COMPUTING, QUIET, image_input, pair_input, picture_output
from .models import Models, on_gpu
from .uploads import error_message, read_upload


AS_CONFIGURED = "as_configured"
SCALINGS = [
    ("as set for the model", AS_CONFIGURED),
    ("percentiles of the image", "percentiles"),
    ("two fixed values", "fixed_range"),
    ("full range of 8 or 16 bits", "dtype_range"),
]
BOTH, MAIN_ALONE = "both", "main_alone"
# The two numbers that a scaling needs.
NUMBERS = {
    "percentiles": ("lower percentile", "upper percentile"),
    "fixed_range": ("lowest value", "highest value"),
}
TABLE_STYLE = """
table, tbody { border: none; }
tr, th, td { border: none; padding: 0.15rem 1.5rem 0.15rem 0; font-variant-numeric: tabular-nums; }
"""


def compare_tab(models: Models) -> None:
    """Builds the tab inside the page under construction."""
    has_pairs = models.any_reads_pairs

    @on_gpu
    def segment_twice(image: np.ndarray, visible: np.ndarray | None, *sides: tuple) -> list[SegmentedImage]:
        return [
            segment(models.get(name)[0], _processor(models, name, *scaling), image, visible, seen == MAIN_ALONE)
            for name, *scaling, seen in sides
        ]

    def compare(path: str | None, *values: Any) -> tuple:
        if path is None:
            raise error_message("Choose an image first.")
        if not has_pairs:  # then the page has neither the second image nor the choice of the images
            values = (None, *values[:4], BOTH, *values[4:], BOTH)
        image, visible = read_upload(path), None if values[0] is None else read_upload(values[0])
        first, second = segment_twice(image, visible, values[1:6], values[6:])
        is_different = differing_pixels(first, second)
        where = None if is_different is None else difference_picture(image, is_different)
        shown = gr.update(value=where, visible=where is not None)
        return first.picture, second.picture, agreement(is_different), share_table(first, second), shown

    is_single = len(models.names) == 1
    second_scaling = "percentiles" if is_single and not has_pairs else AS_CONFIGURED
    first_seen = MAIN_ALONE if is_single else BOTH
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            what = "Compare two models, or two scalings of the intensities, on one infrared image."
            gr.Markdown(f"{what} Or see what a second camera adds." if has_pairs else what)
            files = pair_input() if has_pairs else (image_input(),)
            settings = [
                *_side("First", models, models.names[0], AS_CONFIGURED, files[0], first_seen),
                *_side("Second", models, models.names[-1], second_scaling, files[0], BOTH),
            ]
            button = gr.Button("Compare", variant="primary")
        with gr.Column(scale=3, min_width=300):
            with gr.Row():
                pictures = [picture_output(label=title, min_width=280) for title in ("First", "Second")]
            summary = gr.Markdown(elem_id="agreement")
            with gr.Row():
                with gr.Column(min_width=280):
                    table = gr.HTML(css_template=TABLE_STYLE, padding=False, elem_id="shares")
                with gr.Column(min_width=280):
                    where = picture_output(label="Where they differ", visible=False, elem_id="differences")
    results = [*pictures, summary, table, where]
    button.click(compare, [*files, *settings], results, show_progress_on=pictures, **COMPUTING)


def _side(title: str, models: Models, name: str, scaling: str, file: gr.File, seen: str) -> list[Component]:
    """
    The settings of one of the two: name of the model, scaling, and two numbers; with models of pairs also which of the
    two images they see.
    """

    def show_numbers(scaling: str, path: str | None) -> tuple:
        low, high = (0, 100) if scaling == "percentiles" else (None, None)
        if scaling == "fixed_range" and path is not None:
            image = read_upload(path)
            low, high = image.min().item(), image.max().item()
        labels = NUMBERS.get(scaling, ("", ""))
        return (
            gr.update(visible=scaling in NUMBERS),
            gr.update(value=low, label=labels[0]),
            gr.update(value=high, label=labels[1]),
        )

    with gr.Group():
        model = gr.Dropdown(models.names, value=name, label=f"{title}: model", interactive=True)
        scales = gr.Dropdown(SCALINGS, value=scaling, label=f"{title}: intensity scaling", interactive=True)
        with gr.Row(visible=scaling in NUMBERS) as row:
            numbers = [gr.Number(value, label=label) for value, label in zip((0, 100), NUMBERS["percentiles"])]
        seen_images: list[Component] = []
        if models.any_reads_pairs:
            seen_images = [
                gr.Dropdown(
                    _seen_images(models),
                    value=seen,
                    label=f"{title}: images",
                    info="One alone: as if the other camera had failed.",
                    visible=models.reads_pairs(name),
                    interactive=True,
                )
            ]
            model.input(lambda name: gr.update(visible=models.reads_pairs(name)), model, seen_images, **QUIET)
    scales.input(show_numbers, [scales, file], [row, *numbers], **QUIET)
    return [model, scales, *numbers, *seen_images]


def _seen_images(models: Models) -> list[tuple[str, str]]:
    """The choice of the images that models of pairs see."""
    main = {models.get(name)[1].main_modality for name in models.names if models.reads_pairs(name)}
    alone = f"{main.pop()} alone" if len(main) == 1 else "the main image alone"
    return [("infrared and visible", BOTH), (alone, MAIN_ALONE)]


def _processor(models: Models, name: str, scaling: str, low: float | None, high: float | None) -> UnipImageProcessor:
    """The image processor of a model, with the chosen scaling."""
    model, processor = models.get(name)
    if scaling == AS_CONFIGURED:
        return processor
    if isinstance(model, EndToEndModel):
        raise ValueError(f"{name} is an end-to-end file, which scales intensities itself. Choose no scaling for it.")
    if scaling not in NUMBERS:
        return with_scaling(processor, scaling)
    if low is None or high is None:
        raise ValueError("This scaling needs two numbers: fill in both.")
    return with_scaling(processor, scaling, (low, high))


__all__ = ["compare_tab"]
