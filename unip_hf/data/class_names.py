# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The classes of a folder: `id2label.json`, and the ids of classes that other files name."""

from collections.abc import Sequence
from pathlib import Path

from ..files import read_json


IGNORE_INDEX = 255
ID2LABEL_EXAMPLE = '{"0": "background", "1": "person", "2": "car"}'


def read_id2label(folder: Path) -> dict[int, str] | None:
    """
    The classes in `id2label.json`, by ascending ids. `None` if there is no such file.

    Raises:
        ValueError: if the file is not of the form of the example, or ids are not 0, 1, 2, ...
    """
    path = folder / "id2label.json"
    if not path.is_file():
        return None
    try:
        content = list(read_json(path).items())
        if all(isinstance(value, int) for _, value in content):
            content = [(id, label) for label, id in content]
        content = sorted(((int(id), label) for id, label in content), key=lambda pair: pair[0])
        if not all(isinstance(label, str) and label for _, label in content):
            raise ValueError("names must be texts")
    except (ValueError, AttributeError) as error:  # no JSON, ids or names; no dictionary
        raise ValueError(f"{str(path)!r} is not of the form {ID2LABEL_EXAMPLE}: {error}.") from error
    ids, labels = [id for id, _ in content], [label for _, label in content]
    if len(set(ids)) < len(ids) or len(set(labels)) < len(labels):
        raise ValueError(f"{str(path)!r} names an id or a class twice: {content}.")
    if not ids or ids != list(range(len(ids))) or len(ids) > IGNORE_INDEX:
        raise ValueError(
            f"The ids in {str(path)!r} must be 0, 1, 2, ... without a gap, up to {IGNORE_INDEX - 1} "
            f"({IGNORE_INDEX} means ignore and has no name), got {ids}."
        )
    return dict(content)


def ids_by_name(names: Sequence[str], folder: Path, source: Path) -> dict[str, int]:
    """
    The ids of the classes that a file names: those of `id2label.json` where there is one, otherwise 0, 1, 2, ...

    Args:
        names (`Sequence[str]`): Different names, in the order of their ids.
        folder (`Path`): The folder that may hold `id2label.json`.
        source (`Path`): The file that holds the names, for messages.

    Raises:
        ValueError: if `id2label.json` lacks a name or is not valid, or there are more than 255 names.
    """
    if len(names) > IGNORE_INDEX:
        raise ValueError(f"{str(source)!r} names {len(names)} classes, but there can be at most {IGNORE_INDEX}.")
    id2label = read_id2label(folder)
    if id2label is None:
        return {name: id for id, name in enumerate(names)}
    ids = {label: id for id, label in id2label.items()}
    unknown = [name for name in names if name not in ids]
    if unknown:
        raise ValueError(
            f"{str(source)!r} names {', '.join(map(repr, unknown))}, but {str(folder / 'id2label.json')!r} names only "
            f"{', '.join(map(repr, ids))}. Use the same names in both, or remove one of the files."
        )
    return ids


__all__ = ["ID2LABEL_EXAMPLE", "IGNORE_INDEX", "ids_by_name", "read_id2label"]
