# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What the numbers of an analysis say, as sentences for the top of its page and for readers who see no figures."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from .attention import nearest_block
from .figures import PLACES, in_words


Model = Mapping[str, Any]
# Of each measure: its name in a sentence, and how its values are written.
MEASURES = {"nmi": ("NMI", "{:.3f}"), "distance": ("Distance", "{:.0f} px"), "entropy": ("Entropy", "{:.2f}")}


def summary(model: Model, target: float) -> list[str]:
    """The main findings about one network, each a sentence."""
    blocks = model["blocks"]
    of_pattern = {
        pattern: [block["block"] for block in blocks if block["pattern"] == pattern]
        for pattern in ("local", "hybrid", "global")
    }
    patterns = [f"{pattern} in {block_ranges(numbers)}" for pattern, numbers in of_pattern.items() if numbers]
    missing = [pattern for pattern, numbers in of_pattern.items() if not numbers]
    sentences = []
    if patterns:
        no_block = f"; no block is {' or '.join(missing)}" if missing else ""
        sentences.append(f"Attention is {_listed(patterns)}{no_block}.")
    known = _known(blocks, "nmi")
    if known:
        nearest = known[nearest_block([block["nmi"] for block in known], target) - 1]
        sentences.append(
            f"Nearest to the target NMI of {target:g} is block {nearest['block']} ({nearest['nmi']:.3f})."
        )
    sentences += [course(blocks, "distance"), place_finding(model)]
    if model.get("texture"):
        sentences += texture_findings(model)
    return [sentence for sentence in sentences if sentence]


def course(blocks: Sequence[Mapping[str, Any]], measure: str) -> str:
    """How a measure goes from the first block to the last, and where it has its peak between."""
    name, written = MEASURES[measure]
    known = _known(blocks, measure)
    if not known:
        return ""
    first, last = known[0], known[-1]
    start, end = written.format(first[measure]), written.format(last[measure])
    if len(known) == 1:
        return f"{name} is {start} in block {first['block']}, the only one."
    if start == end:
        text = f"{name} is {start} in blocks {first['block']} and {last['block']}"
    else:
        verb = "falls" if last[measure] < first[measure] else "rises"
        text = f"{name} {verb} from {start} in block {first['block']} to {end} in block {last['block']}"
    ends = sorted((first[measure], last[measure]))
    lowest, highest = (choose(known, key=lambda block: block[measure]) for choose in (min, max))
    between = [
        f"the {word} is {written.format(block[measure])} in block {block['block']}"
        for word, block, is_beyond in (
            ("lowest", lowest, lowest[measure] < ends[0]),
            ("highest", highest, highest[measure] > ends[1]),
        )
        if is_beyond
    ]
    return "; ".join([text, *between]) + "."


def place_finding(model: Model, place: str = "own_object") -> str:
    """In which block attention prefers a place most; empty if the network has no such shares."""
    area = (model.get("object_areas") or {}).get(place)
    known = _known(model.get("objects") or (), place)
    if not area or not known:
        return ""
    best = max(known, key=lambda block: block[place])
    share, times = best[place], best[place] / area
    where = {"near": "near the query", "own_object": "on the query's own object"}.get(place, "on " + PLACES[place][0])
    return (
        f"Attention {where} is highest in block {best['block']}: {share:.1%} of the attention, {times:.1f} times its "
        f"share of the area ({area:.1%})."
    )


def places_finding(shares: Sequence[Mapping[str, Any]]) -> str:
    """Where the attention of the first and of the last block falls."""
    ends = shares if len(shares) == 1 else (shares[0], shares[-1])
    sentences = []
    for block in ends:
        parts = [f"{label} {block[name] or 0:.0%}" for name, (label, _) in PLACES.items()]
        sentences.append(f"Block {block['block']}: {', '.join(parts)}.")
    return " ".join(sentences)


def texture_findings(model: Model) -> list[str]:
    """Which change of the images the features of the last block, and the segmentation, tolerate least."""
    sentences = []
    last = {change: cosines[-1] for change, cosines in (model["texture"].get("features") or {}).items() if cosines}
    last = {change: cosine for change, cosine in last.items() if cosine is not None}
    if last:
        worst = min(last, key=last.__getitem__)
        sentences.append(f"Largest change of the last block's features: {in_words(worst)} (cosine {last[worst]:.2f}).")
    drops = mean_iou_drops(model)
    if drops:
        worst = max(drops, key=drops.__getitem__)
        sentences.append(
            f"Largest drop of mean IoU: {in_words(worst)} ({100 * drops[worst]:.1f} points, from "
            f"{model['texture']['mean_iou']['clean']:.1%})."
        )
    return sentences


def mean_iou_drops(model: Model) -> dict[str, float]:
    """Clean mean IoU less that under each change, from -1 to 1, where both are known."""
    scores = (model.get("texture") or {}).get("mean_iou") or {}
    clean = scores.get("clean")
    return {
        change: clean - score
        for change, score in scores.items()
        if change != "clean" and clean is not None and score is not None
    }


def cka_finding(values: Sequence[Sequence[float | None]], models: Sequence[int]) -> str:
    """
    Which blocks are least alike, and which blocks of different networks are most alike.

    Args:
        values: CKA of each block with each.
        models: The network of each row, from 0; its blocks follow one another.
    """
    names = [f"block {row - models.index(model) + 1}" for row, model in enumerate(models)]
    if len(set(models)) > 1:
        names = [f"{name} of network {model + 1}" for name, model in zip(names, models)]
    pairs = [
        (value, row, column)
        for row, of_row in enumerate(values)
        for column, value in enumerate(of_row[:row])
        if value is not None
    ]
    if not pairs:
        return "There are no two blocks whose CKA is known."
    value, row, column = min(pairs)
    text = f"Least alike are {names[column]} and {names[row]} (CKA {value:.2f})."
    across = [pair for pair in pairs if models[pair[1]] != models[pair[2]]]
    if across:
        value, row, column = max(across)
        text += f" Most alike across networks are {names[column]} and {names[row]} ({value:.2f})."
    return text


def block_ranges(numbers: Sequence[int]) -> str:
    """Ascending block numbers as text: "blocks 1 to 5 and 7"."""
    texts = []
    for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        first, *others = (number for _, number in run)
        texts.append(f"{first} to {others[-1]}" if others else str(first))
    return f"{'block' if len(numbers) == 1 else 'blocks'} {_listed(texts)}"


def _listed(texts: Sequence[str]) -> str:
    return " and ".join([", ".join(texts[:-1])] * bool(texts[:-1]) + [texts[-1]])


def _known(blocks: Sequence[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    return [block for block in blocks if block.get(name) is not None]


__all__ = [
    "MEASURES",
    "block_ranges",
    "cka_finding",
    "course",
    "mean_iou_drops",
    "place_finding",
    "places_finding",
    "summary",
    "texture_findings",
]
