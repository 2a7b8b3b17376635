# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Proposals of the dataset check: the option or the file that fits what it found."""

import json
from collections.abc import Collection, Sequence

from .class_names import IGNORE_INDEX
from .statistics import ClassShare


MOST_COLOURS = 48  # more are not classes
RARE_SHARE = 0.01  # of the labelled pixels
RARE_CLASS_OPTIONS = "--dice_loss_weight 1 --rare_class_sampling 1"


def name_classes(ids: Sequence[int]) -> str:
    """The problem that classes have no names, with a proposal. `ids` ascend, without 255."""
    occur = f"The classes have no names. The ids {', '.join(map(str, ids))} occur"
    if not ids:
        return f"The classes have no names, and only the id {IGNORE_INDEX} occurs"
    if ids[0] < 0 or ids[-1] >= IGNORE_INDEX or ids[-1] > 2 * len(ids) + 8:
        numbered = f"{occur}. Number the classes 0, 1, 2, ... in the masks, with {IGNORE_INDEX} for what is ignored"
        return numbered + _values(ids)
    proposal = json.dumps({str(id): f"class {id}" for id in range(ids[-1] + 1)})
    return f"{occur}. Write id2label.json beside the images, {proposal}, with names of your own"


def list_values(values: Collection[int], id2label: dict[int, str]) -> str:
    """A sentence that lists values which may stand for the named classes, or nothing if they cannot."""
    ascending = sorted(set(values) - {IGNORE_INDEX})
    return _values(ascending) if len(ascending) <= len(id2label) else ""


def _values(values: Sequence[int]) -> str:
    if not values or values[0] < 0 or len(values) > IGNORE_INDEX:
        return ""
    option = ",".join(f"{value}={id}" for id, value in enumerate(values))
    content = json.dumps({str(value): id for id, value in enumerate(values)})
    return (
        f". If the values stand for classes in this order, add --mask_values {option}, or write mask_values.json "
        f"beside the images, {content}"
    )


def list_colours(colours: Collection[str], values: Collection[int], id2label: dict[int, str] | None) -> str:
    """A sentence that lists colours, ascending from black. `values` are those of masks without any other colour."""
    colours = {*colours, *(f"#{value * 0x010101:06x}" for value in values if 0 <= value < 256)}
    if len(colours) > MOST_COLOURS:
        return f". More than {MOST_COLOURS} colours occur, as in photographs and after lossy compression"
    content = json.dumps({colour: f"class {number}" for number, colour in enumerate(sorted(colours))})
    names = "of your own" if id2label is None else "from id2label.json"
    return f". Write mask_colours.json beside the images, {content}, with names {names}"


def help_rare_classes(classes: Sequence[ClassShare]) -> list[str]:
    """A sentence that names the classes with few pixels and the options for them, or nothing if there are none."""
    rare = [f"{c.id} {c.name or '?'} ({c.pixel_share:.2%})" for c in classes if 0 < c.pixel_share < RARE_SHARE]
    if not rare or len(classes) < 2:
        return []
    return [
        f"Classes with less than {RARE_SHARE:.0%} of the pixels are easily ignored: {', '.join(rare)}. Train with "
        f"{RARE_CLASS_OPTIONS}"
    ]


__all__ = ["RARE_CLASS_OPTIONS", "help_rare_classes", "list_colours", "list_values", "name_classes"]
