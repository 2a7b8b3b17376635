# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The tab that shows where a token looks, in every block, and the NMI of the blocks."""

import html
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from ..analysis import nmi_curve
from ..hub.public_names import plain
from .attention import MAX_TOKENS, ImageAttention, attention_picture, description, legend, measure_attention
from .components import COMPUTING, QUIET, image_input, model_choice
from .models import Models, on_gpu
from .temporary import session_folder
from .uploads import read_upload


MEAN_OF_HEADS = "mean of all heads"
CHOOSE = "Choose an image, then click on the picture to see another place."
NMI_EXPLAINED = (
    "Normalised mutual information (NMI) is near 1 if each token looks at a place of its own, and 0 if all tokens "
    "look at the same places. UNIP learns from blocks in between."
)


def attention_tab(models: Models) -> None:
    """Builds the tab inside the page under construction."""

    @on_gpu
    def measure(name: str, image: np.ndarray) -> ImageAttention:
        return measure_attention(*models.get(name), image)

    def show(layer: int, head: int, token: tuple[int, int], request: gr.Request) -> tuple:
        attention = ImageAttention.load(_path(request))
        # A quick click may come with the settings of the previous image.
        layer = min(layer, len(attention.nmi))
        head = min(head, attention.num_heads(layer))
        row, column = (min(place, size - 1) for place, size in zip(token, attention.grid_size))
        token = (row, column)
        shares = attention.shares(layer, token, head or None)
        return (
            attention_picture(attention, shares, token),
            legend(shares),
            description(attention, shares, layer, token, head or None),
        )

    def show_layer(layer: int, head: int, token: tuple[int, int], request: gr.Request) -> tuple:
        attention = ImageAttention.load(_path(request))
        layer = min(layer, len(attention.nmi))
        heads = range(1, attention.num_heads(layer) + 1)
        head = head if head in heads else 0
        choices = [(MEAN_OF_HEADS, 0), *((f"head {number}", number) for number in heads)]
        figure = nmi_curve(attention.nmi, layer)
        figure.set_size_inches(4.5, 3.2)  # legible on a phone
        figure.set_dpi(150)
        return (
            *show(layer, head, token, request),
            gr.update(choices=choices, value=head),
            gr.update(value=figure, visible=True),
        )

    def show_token(layer: int, head: int, event: gr.SelectData, request: gr.Request) -> tuple:
        attention = ImageAttention.load(_path(request))
        side = attention.picture.shape[0] // attention.grid_size[0]
        column, row = (
            min(max(int(place) // side, 0), tokens - 1)
            for place, tokens in zip(event.index, attention.grid_size[::-1])
        )
        return (row, column), *show(layer, head, (row, column), request)

    def show_image(path: str | None, name: str, layer: int, old: tuple | None, request: gr.Request) -> dict:
        if path is None:
            return nothing(CHOOSE)
        try:
            attention = measure(name, read_upload(path))
        except gr.Error as error:
            return nothing(plain(html.unescape(error.message)))
        attention.save(_path(request))
        num_layers, (rows, columns) = len(attention.nmi), attention.grid_size
        layer = num_layers if old is None else min(layer, num_layers)
        middle = (rows // 2, columns // 2)
        return {
            results: gr.update(visible=True),
            note: f"The network sees {columns} x {rows} patches. At most {MAX_TOKENS} are used here. {NMI_EXPLAINED}",
            token: middle,
            layer_slider: gr.update(maximum=max(2, num_layers), value=layer, interactive=num_layers > 1),
            **dict(zip(outputs, show_layer(layer, 0, middle, request))),
        }

    def nothing(why: str) -> dict:
        hidden = gr.update(visible=False)
        return {results: hidden, plot: hidden, picture: None, scale: "", text: why, note: ""}

    token = gr.State()  # its row and column
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            gr.Markdown("Where does a patch of the image look? Upload an infrared image, or choose an example.")
            model = model_choice(models)
            file = image_input()
            plot = gr.Plot(label="NMI of each block", show_label=False, container=False, visible=False, elem_id="nmi")
            note = gr.Markdown(elem_classes="note")
        with gr.Column(scale=3, min_width=300):
            # Nothing lies over the picture, so that every patch can be seen and clicked.
            picture = gr.Image(
                show_label=False,
                interactive=False,
                buttons=[],
                format="png",
                elem_id="attention",
                alt_text="attention",
            )
            scale = gr.HTML(elem_id="attention-scale")
            text = gr.Markdown(CHOOSE, elem_id="attention-text")
            with gr.Column(visible=False) as results:
                layer_slider = gr.Slider(
                    1, 2, 1, step=1, precision=0, label="Block", buttons=[], elem_id="attention-block"
                )
                head = gr.Dropdown([(MEAN_OF_HEADS, 0)], value=0, label="Head", elem_id="attention-head")
    shown = [picture, scale, text]
    outputs = [*shown, head, plot]
    for event in (file.change, model.change):
        event(
            show_image,
            [file, model, layer_slider, token],
            [results, note, token, layer_slider, *outputs],
            show_progress_on=picture,
            **COMPUTING,
        )
    light: dict[str, Any] = {"trigger_mode": "always_last", "concurrency_limit": 4, **QUIET}
    layer_slider.input(show_layer, [layer_slider, head, token], outputs, **light)
    head.input(show, [layer_slider, head, token], shown, **light)
    picture.select(show_token, [layer_slider, head], [token, *shown], **light)


def _path(request: gr.Request) -> Path:
    """The file with the attention of a visitor's image."""
    return session_folder(request) / "attention.pt"


__all__ = ["attention_tab"]
