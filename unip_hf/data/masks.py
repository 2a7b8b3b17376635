# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
What the pixels of a mask mean if they are not class ids: values or colours, which one of these files in the folder
lists.

- `mask_values.json`: the id of each value, `{"0": 0, "255": 1}`.
- `labelmap.txt`: the colour of each class as CVAT and Pascal VOC exports list it, `person:192,128,128::`.
- `mask_colours.json` (or `mask_colors.json`): the class of each colour, `{"#000000": "background", "#4682b4": "sky"}`.

The colours of the class "ignore" become 255.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..files import read_json
from .class_names import IGNORE_INDEX, ids_by_name


VALUES_FILE = "mask_values.json"
COLOURS_FILES = ("mask_colours.json", "mask_colors.json")
LABEL_MAP = "labelmap.txt"
IGNORED_CLASS = "ignore"
VALUES_EXAMPLE = '{"0": 0, "255": 1}'
COLOURS_EXAMPLE = '{"#000000": "background", "#4682b4": "sky"}'

MaskValues = Mapping[int, int] | str


class MaskError(ValueError):
    """
    A mask cannot be turned into ids.

    Args:
        message (`str`): What is wrong and where.
        kind (`str`): "unlisted" values or colours, "colour_mask" for colours that nothing lists, another "size", or
            "undrawable" annotations.
        colours (`Sequence[str]`): For "colour_mask", colours that occur, `"#4682b4"`.
    """

    def __init__(self, message: str, kind: str, colours: Sequence[str] = ()):
        super().__init__(message)
        self.kind = kind
        self.colours = list(colours)

    def __reduce__(self) -> tuple[Any, ...]:  # the workers of a DataLoader hand it on
        return type(self), (str(self), self.kind, self.colours)


@dataclass(frozen=True)
class MaskMeaning:
    """
    The ids of the pixels of masks.

    Args:
        ids (`dict[str, int]`): Ids 0 to 255 by values, `"255"`, or by colours, `"#4682b4"`. It is JSON, because
            `datasets` keeps it with the rows.
        source (`str`): The file or option that lists them, for messages.
        names (`tuple[str, ...]`): The classes of the colours in the order of the file, without "ignore".
    """

    ids: dict[str, int]
    source: str
    names: tuple[str, ...] = ()


def find_meaning(folder: Path, mask_values: MaskValues | None = None) -> MaskMeaning | None:
    """
    What the masks of a folder mean. `None` if nothing says so, and they hold ids.

    Args:
        folder (`Path`): The folder that may hold one of the files above.
        mask_values (`Mapping[int, int]` or `str`, *optional*): Used in place of `mask_values.json`: `{0: 0, 255: 1}`
            or `"0=0,255=1"`.

    Raises:
        ValueError: if a file is not of its form, or there are several.
    """
    found = [path for name in (VALUES_FILE, *COLOURS_FILES, LABEL_MAP) if (path := folder / name).is_file()]
    if mask_values is not None:
        found = [path for path in found if path.name != VALUES_FILE]
        if found:
            raise ValueError(
                f"{str(found[0])!r} says what the colours of the masks mean: remove it, or leave out --mask_values "
                "(mask_values in Python)."
            )
        return MaskMeaning(parse_mask_values(mask_values), "--mask_values")
    if len(found) > 1:
        raise ValueError(f"{' and '.join(repr(str(path)) for path in found)} both say what masks mean: keep one.")
    if not found:
        return None
    (path,) = found
    if path.name == VALUES_FILE:
        return MaskMeaning(_values(_read_json(path, VALUES_EXAMPLE).items(), repr(str(path))), str(path))
    labels = _read_label_map(path) if path.name == LABEL_MAP else _read_colours(path)
    names = tuple(dict.fromkeys(label for label in labels.values() if label != IGNORED_CLASS))
    ids = {**ids_by_name(names, folder, path), IGNORED_CLASS: IGNORE_INDEX}
    return MaskMeaning({colour: ids[label] for colour, label in labels.items()}, str(path), names)


def parse_mask_values(given: MaskValues) -> dict[str, int]:
    """
    Values and their ids from `"0=0,255=1"` or `{0: 0, 255: 1}`, with texts as keys.

    Raises:
        ValueError: if it is of another form.
    """
    if isinstance(given, str):
        pairs = [tuple(part.split("=")) for part in given.replace(" ", "").split(",")]
        if not all(len(pair) == 2 for pair in pairs):
            raise ValueError(f"--mask_values must be such as 0=0,255=1 (value=id), got {given!r}.")
        given_pairs: Iterable[tuple[Any, Any]] = [(pair[0], pair[1]) for pair in pairs]
    elif isinstance(given, Mapping):
        given_pairs = given.items()
    else:
        raise ValueError(f"mask_values must be a dictionary such as {{0: 0, 255: 1}}, got {given!r}.")
    return _values(given_pairs, "--mask_values")


def _values(pairs: Iterable[tuple[Any, Any]], source: str) -> dict[str, int]:
    ids: dict[str, int] = {}
    for value, id in pairs:
        if not (re.fullmatch(r"\d{1,5}", str(value), re.ASCII) and re.fullmatch(r"\d{1,3}", str(id), re.ASCII)):
            raise ValueError(f"{source} must give a whole number for each value, such as 255=1, got {value}={id}.")
        if int(id) > IGNORE_INDEX:
            raise ValueError(f"{source} must give ids of 0 to {IGNORE_INDEX}, got {value}={id}.")
        if str(int(value)) in ids:
            raise ValueError(f"{source} names the value {int(value)} twice.")
        ids[str(int(value))] = int(id)
    if not ids:
        raise ValueError(f"{source} names no value. It should be such as {VALUES_EXAMPLE}.")
    return ids


def _read_json(path: Path, example: str) -> dict[str, Any]:
    content = read_json(path, example)
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{str(path)!r} must be of the form {example}.")
    return content


def _read_colours(path: Path) -> dict[str, str]:
    labels: dict[str, str] = {}
    for colour, label in _read_json(path, COLOURS_EXAMPLE).items():
        if not re.fullmatch("#[0-9a-fA-F]{6}", colour) or not isinstance(label, str) or not label:
            raise ValueError(f"{str(path)!r} must be of the form {COLOURS_EXAMPLE}, got {colour!r}: {label!r}.")
        if colour.lower() in labels:
            raise ValueError(f"{str(path)!r} names the colour {colour.lower()} twice.")
        labels[colour.lower()] = label
    return labels


def _read_label_map(path: Path) -> dict[str, str]:
    labels: dict[str, str] = {}
    for number, line in enumerate(path.read_text("utf-8-sig", errors="replace").splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        label, _, rest = line.partition(":")
        channels = [part.strip() for part in rest.split(":")[0].split(",")]
        if not label or len(channels) != 3 or not all(re.fullmatch(r"\d{1,3}", c, re.ASCII) for c in channels):
            raise ValueError(
                f"Line {number} of {str(path)!r} must be of the form person:192,128,128:: (class:red,green,blue), got "
                f"{line!r}."
            )
        if max(map(int, channels)) > 255:
            raise ValueError(f"Line {number} of {str(path)!r} has a colour above 255: {line!r}.")
        colour = "#" + bytes(map(int, channels)).hex()
        if colour in labels:
            raise ValueError(
                f"{str(path)!r} gives {colour} ({rest.split(':')[0]}) to {labels[colour]!r} and {label!r}."
            )
        labels[colour] = label
    if not labels:
        raise ValueError(f"{str(path)!r} names no class. Its lines should be such as person:192,128,128::.")
    return labels


def is_of_colours(ids: Mapping[str, int]) -> bool:
    """Whether ids are given to colours, not to values."""
    return next(iter(ids)).startswith("#")


def pack_colours(pixels: np.ndarray, name: str) -> np.ndarray:
    """
    Colours as integers 0xRRGGBB.

    Args:
        pixels (`np.ndarray` of shape `(height, width)` or `(height, width, 3)`): uint8, or bool for black and white.
        name (`str`): The file, for messages.

    Raises:
        ValueError: if the pixels have another depth.
    """
    if pixels.dtype == bool:
        pixels = pixels * np.uint8(255)
    if pixels.dtype != np.uint8:
        raise ValueError(f"{name} should hold colours of 8 bits, got {pixels.dtype}.")
    if pixels.ndim == 2:
        return pixels.astype(np.int32) * 0x010101
    red, green, blue = np.moveaxis(pixels.astype(np.int32), -1, 0)  # (H, W) each
    return red << 16 | green << 8 | blue


def to_ids(codes: np.ndarray, ids: Mapping[str, int], name: str, source: str) -> np.ndarray:
    """
    The ids of values or packed colours. The value 255 stays 255 unless `ids` says otherwise.

    Args:
        codes (`np.ndarray` of shape `(height, width)`): Integers or bools.
        ids (`Mapping[str, int]`): As in [`MaskMeaning`].
        name (`str`): The file, for messages.
        source (`str`): What lists the values, for messages.

    Returns:
        `np.ndarray` of the same shape, uint8.

    Raises:
        MaskError: if a value is not listed. The message names the file, the value and the first pixel.
    """
    if is_of_colours(ids):
        table = {int(colour[1:], 16): id for colour, id in ids.items()}
    else:
        table = {IGNORE_INDEX: IGNORE_INDEX, **{int(value): id for value, id in ids.items()}}
    dtype = np.int32 if np.can_cast(codes.dtype, np.int32) else np.int64
    codes = codes.astype(dtype, copy=False)
    listed = np.array(sorted(table), dtype)
    places = np.searchsorted(listed[1:], codes, side="right")  # (H, W), of the last that is not above
    is_unlisted = listed[places] != codes
    if is_unlisted.any():
        row, column = np.argwhere(is_unlisted)[0].tolist()
        code = codes[row, column].item()
        what = f"the colour #{code:06x}" if is_of_colours(ids) else f"the value {code}"
        count = len(np.unique(codes[is_unlisted])) - 1
        is_grey = is_of_colours(ids) and code % 0x010101 == 0
        hint = f" If the mask holds ids, remove {os.path.basename(source)}." if is_grey else ""
        more = f" (and {count} other{'s' * (count > 1)})" if count else ""
        raise MaskError(
            f"{name} holds {what}{more}, which {os.path.basename(source)} does not list. Its first pixel is in row "
            f"{row}, column {column}, counted from 0.{hint}",
            "unlisted",
        )
    return np.array([table[value] for value in listed.tolist()], np.uint8)[places]


__all__ = [
    "COLOURS_FILES",
    "LABEL_MAP",
    "VALUES_FILE",
    "MaskError",
    "MaskMeaning",
    "MaskValues",
    "find_meaning",
    "is_of_colours",
    "pack_colours",
    "parse_mask_values",
    "to_ids",
]
