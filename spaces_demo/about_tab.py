# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The tab that shows the card of a model, its classes, and how it scales intensities."""

import html
import mimetypes
import re
from base64 import b64encode
from pathlib import Path
from typing import Any

import gradio as gr
from torch import nn
from transformers.utils import cached_file

from ..hub.model_card import describe_images
from ..inference import reads_pairs
from ..modeling.image_processing_unip import UnipImageProcessor
from .components import QUIET, model_choice, swatch
from .models import Models


HEADER = re.compile(r"\A---\s*\n.*?\n---\s*\n", re.DOTALL)
PICTURES = re.compile(r"!\[([^\]]*)\]\(([^)\s]*)\)|<img\b[^>]*>", re.IGNORECASE)


def find_file(name: str, file: str) -> Path | None:
    """A file beside a model that lies here, or of its repository on the Hub; `None` if there is none."""
    place = Path(name)
    try:
        found = cached_file(place.parent if place.is_file() else name, file)
    except OSError:
        return None
    return None if found is None else Path(found)


def read_card(name: str) -> str:
    """
    The model card of a folder or of a model on the Hub, as Markdown without its header. Pictures that lie beside the
    card are embedded. Others are left out, because the browser would have to fetch them from elsewhere.
    """
    card = find_file(name, "README.md")
    if card is None:
        return "This model has no card."

    def embed(picture: re.Match) -> str:
        title, target = picture.group(1) or "", picture.group(2) or ""
        kind = mimetypes.guess_type(target)[0] or ""
        is_beside = kind.startswith("image/") and not re.search(r"^/|:|\.\.", target)
        file = find_file(name, target) if is_beside else None
        return title if file is None else f"![{title}](data:{kind};base64,{b64encode(file.read_bytes()).decode()})"

    return PICTURES.sub(embed, HEADER.sub("", card.read_text(encoding="utf-8")))


def describe_model(name: str, model: nn.Module, processor: UnipImageProcessor) -> str:
    """HTML that says what a model is, how it scales intensities, and what its classes are."""
    config: Any = model.config
    parameters = sum(parameter.numel() for parameter in model.parameters())
    size = f", {parameters / 1e6:.1f} million parameters" if parameters > 1000 else ""  # an exported file shows none
    labels = config.id2label
    classes = "".join(f"<li>{swatch(index, labels)}{html.escape(labels[index])}</li>" for index in sorted(labels))
    images = describe_images(processor, reads_pairs(model))
    kind = html.escape((getattr(config, "architectures", None) or [config.model_type])[0])
    return (
        f"<p><b>{html.escape(name)}</b>: {kind}{size}.</p><p>{html.escape(images)}</p>"
        f'<p>{len(labels)} classes:</p><ul class="classes">{classes}</ul>'
    )


def about_tab(models: Models) -> None:
    """Builds the tab inside the page under construction."""

    def describe(name: str) -> tuple[str, str]:
        return describe_model(name, *models.get(name)), read_card(name)

    name = model_choice(models)
    facts, card = describe(models.names[0])
    shown = [gr.HTML(facts, elem_id="facts", padding=False), gr.Markdown(card, elem_id="card")]
    name.change(describe, name, shown, **QUIET)


__all__ = ["about_tab", "describe_model", "read_card"]
