# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The page of an analysis: one HTML file that needs no other, and its numbers as JSON and CSV beside it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import write_whole
from . import figures, findings


if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

TEMPLATE = Path(__file__).parent / "templates" / "analysis.html"
TABLES = ("blocks.csv", "objects.csv", "cka.csv", "texture.csv")
MOST_ROWS = 32  # of the table of CKA on the page, which has as many columns

MEASURE_TERMS = {
    "NMI": "Normalised mutual information of queries and keys, 0 to 1: how much the place of a patch says about where "
    "it looks. Near 1, every patch looks at a place of its own: attention is local. Near 0, all patches look at the "
    "same places: attention is global. Between {} and {} it is called hybrid here: patches look around themselves and "
    "at the foreground. UNIP distils the block that is nearest to {}.",
    "Distance": "How many pixels lie between a patch and the patches that it looks at, on average. Short distances "
    "mean that a patch looks around itself.",
    "Entropy": "How widely a patch spreads its attention: 0 if it looks at one patch, 1 if at all patches alike.",
}
PLACE_TERMS = {
    "Near the query": "The patch that looks, and those at most {} away in rows and in columns.",
    "Own object, other foreground, background": "All other patches, by what the masks show there: the object under "
    "the patch that looks, any other object, or none.",
    "Even": "What attention that is spread evenly over the image would give. More than that means that attention "
    "prefers such places.",
}
PREFERENCES = {
    "near": "Attention near the query against its area",
    "own_object": "Attention on the own object against its area",
    "other_foreground": "Attention on other foreground against its area",
}
CHANGE_TERMS = {
    "patch_shuffle": "Tiles of the image change places: local texture stays, shape goes.",
    "low_pass": "A blur: shape stays, fine texture goes.",
    "high_pass": "What a blur removes: edges and fine texture stay, large areas lose their brightness.",
    "phase_scramble": "Frequencies stay, but not where they are: the overall texture stays, shape goes.",
    "visible": "The visible image of the same scene takes the place of the infrared one.",
}


@dataclass(frozen=True)
class Picture:
    """
    A picture for the page.

    Args:
        title (`str`): Heading above it. It must differ from that of other pictures.
        caption (`str`): What it shows: the text below it, and for readers who cannot see it.
        figure (`matplotlib.figure.Figure`): The picture.
    """

    title: str
    caption: str
    figure: "Figure"


@dataclass(frozen=True)
class Section:
    """A part of the page. Its figures are titles, SVG and captions; its tables are HTML by title."""

    title: str
    paragraphs: Sequence[str] = ()
    terms: Mapping[str, str] = field(default_factory=dict)
    figures: Sequence[tuple[str, str, str]] = ()
    tables: Mapping[str, str] = field(default_factory=dict)


def write_report(report: Mapping[str, Any], pictures: Sequence[Picture], output_dir: Path) -> Path:
    """
    Writes the results of an analysis: `index.html` for people, which needs no other file, no script and no network;
    `analysis.json`, which holds everything; `blocks.csv`; and `objects.csv`, `cka.csv`, `texture.csv` of what was
    measured. Files of these names from an earlier analysis are replaced or removed.

    Args:
        report (`dict`): What was measured, as for JSON: `data` (`name`, `split`, `num_images`, `size`), `settings`
            (with `hybrid_nmi`, `target_nmi`, `near`), `versions`, `models`, `cka`, and `not_measured` with the reason
            for each part that is missing (`objects`, `cka`, `texture`). Of each model: `name`, `parameters`,
            `patch_size`, `grid`, `normalisation`, `blocks`, and if measured `objects`, `object_areas`, `texture`.
            Numbers that are not finite become `null`.
        pictures (`Sequence[Picture]`): Attention maps and the like.
        output_dir (`Path`): Folder to write to.

    Returns:
        The path of the page.

    Raises:
        OSError: if a file cannot be written.
    """
    report = json.loads(json.dumps(report), parse_constant=lambda _: None)
    tables = report_tables(report)
    with figures.figure_style():
        page = _render(report, tables, pictures)
    for name in TABLES:
        if name in tables:
            with write_whole(output_dir / name) as staged:
                tables[name].to_csv(staged, index=False)
        else:
            (output_dir / name).unlink(missing_ok=True)
    for name, text in (("analysis.json", json.dumps(report, indent=1)), ("index.html", page)):  # the page at last
        with write_whole(output_dir / name) as staged:
            staged.write_text(text, encoding="utf-8")
    return output_dir / "index.html"


def report_tables(report: Mapping[str, Any]) -> "dict[str, pd.DataFrame]":
    """The numbers of a report by the name of their CSV file; `blocks.csv` and those of the parts that it has."""
    import pandas as pd

    models = report["models"]
    rows = {"blocks.csv": [], "objects.csv": [], "texture.csv": []}  # type: dict[str, list[dict[str, Any]]]
    num_heads = max(len(block.get("nmi_of_heads") or ()) for model in models for block in model["blocks"])
    for model in models:
        name = {"model": model["name"]}
        for block in model["blocks"]:
            row = {key: block.get(key) for key in ("block", "pattern", "nmi", "nmi_deviation", "distance", "entropy")}
            for measure in findings.MEASURES:
                of_heads = block.get(f"{measure}_of_heads") or ()
                for head in range(num_heads):
                    row[f"{measure}_head_{head + 1}"] = of_heads[head] if head < len(of_heads) else None
            rows["blocks.csv"].append(name | row)
        areas = {f"{place}_even": (model.get("object_areas") or {}).get(place) for place in figures.PLACES}
        for block in model.get("objects") or ():
            rows["objects.csv"].append(name | {key: block.get(key) for key in ("block", *figures.PLACES)} | areas)
        texture = model.get("texture") or {}
        features = texture.get("features") or {}
        for number, cosines in enumerate(zip(*features.values()), 1):
            rows["texture.csv"].append(name | {"measure": "cosine", "block": number} | dict(zip(features, cosines)))
        if texture.get("mean_iou"):
            rows["texture.csv"].append(name | {"measure": "mean_iou", "block": None} | texture["mean_iou"])
    tables = {file: pd.DataFrame(of_file).astype({"block": "Int64"}) for file, of_file in rows.items() if of_file}
    cka = report.get("cka")
    if cka:
        tables["cka.csv"] = pd.DataFrame(cka["values"], columns=cka["names"], dtype=float)
        tables["cka.csv"].insert(0, "block", cka["names"], allow_duplicates=True)
    return tables


def _render(report: Mapping[str, Any], tables: "Mapping[str, pd.DataFrame]", pictures: Sequence[Picture]) -> str:
    import jinja2

    models, data, settings = report["models"], report["data"], report["settings"]
    labels = figures.short_names([model["name"] for model in models])
    (height, width), target = data["size"], settings["target_nmi"]
    split = f", {data['split']}" if data.get("split") else ""
    source = f"{data['num_images']:,} image{'s' * (data['num_images'] > 1)} of {data['name']}{split}"
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title="What this backbone looks at" if len(models) == 1 else f"What {len(models)} backbones look at",
        introduction=f"Measured on {source}, at {height} x {width} pixels.",
        summaries=[
            (f"{number} " * (len(models) > 1) + model["name"], _facts(model), findings.summary(model, target))
            for number, model in enumerate(models, 1)
        ],
        sections=[
            *_block_sections(models, labels, settings, tables["blocks.csv"]),
            *_object_sections(report, labels, tables),
            *_cka_sections(report, labels, tables),
            *_texture_sections(report, labels, tables),
            *_picture_sections(pictures),
        ],
        conditions={
            "Data": f"{source}, {height} x {width} pixels (height x width)",
            "Settings": _pairs(settings),
            "Versions": _pairs(report.get("versions") or {}),
        },
        files=["analysis.json", *(name for name in TABLES if name in tables)],
    )


def _block_sections(
    models: Sequence[Any], labels: Sequence[str], settings: Mapping[str, Any], table: "pd.DataFrame"
) -> Iterator[Section]:
    hybrid, target = settings["hybrid_nmi"], settings["target_nmi"]
    terms = dict(MEASURE_TERMS, NMI=MEASURE_TERMS["NMI"].format(*(f"{value:g}" for value in (*hybrid, target))))
    how = "Lines: mean over images and heads." + " Dots: heads." * (len(models) <= figures.MOST_WITH_HEADS)
    of_measures = [
        ("nmi", "normalised mutual information", how + " Bands: standard deviation over images.", (hybrid, target)),
        ("distance", "attention distance in pixels", how, ()),
        ("entropy", "entropy (1 = even)", how, ()),
    ]
    drawn = []
    for measure, axis_label, caption, marks in of_measures:
        figure = figures.measure_figure(models, labels, measure, axis_label, *marks)
        courses = {label: findings.course(model["blocks"], measure) for label, model in zip(labels, models)}
        title = findings.MEASURES[measure][0] + " over blocks"
        drawn.append((title, figures.as_svg(figure, f"{title}. {_by_model(courses)}"), caption))
    heads = [column for column in table if "_head_" in column]
    shown = {"Numbers of each block": _html(table.drop(columns=heads).rename(columns=figures.in_words))}
    if heads:
        shown["Numbers of each head"] = _html(table[["model", "block", *heads]].rename(columns=figures.in_words))
    yield Section("Block by block", (), terms, drawn, shown)


def _object_sections(
    report: Mapping[str, Any], labels: Sequence[str], tables: "Mapping[str, pd.DataFrame]"
) -> Iterator[Section]:
    title = "Attention against objects"
    measured = [(label, model) for label, model in zip(labels, report["models"]) if model.get("objects")]
    if not measured:
        yield from _not_measured(report, "objects", title)
        return
    drawn = []
    for place, heading in PREFERENCES.items():
        found = {label: findings.place_finding(model, place) for label, model in measured}
        if any(found.values()):
            figure = figures.place_figure(report["models"], labels, place)
            svg = figures.as_svg(figure, f"{heading}. {_by_model(found)}")
            drawn.append((heading, svg, "Above 1: more attention than the area explains."))
    for label, model in measured:
        figure = figures.object_figure(model["objects"], model.get("object_areas"))
        heading = "Where attention falls" + (f": {label}" if len(labels) > 1 else "")
        description = f"{heading}. {findings.places_finding(model['objects'])}"
        drawn.append((heading, figures.as_svg(figure, description), "Mean over patches of objects, heads and images."))
    terms = {term: text.format(report["settings"].get("near", 1)) for term, text in PLACE_TERMS.items()}
    yield Section(
        title,
        (),
        terms,
        drawn,
        {"Shares of each block": _html(tables["objects.csv"].rename(columns=figures.in_words))},
    )


def _cka_sections(
    report: Mapping[str, Any], labels: Sequence[str], tables: "Mapping[str, pd.DataFrame]"
) -> Iterator[Section]:
    title, cka = "Similarity of features", report.get("cka")
    if not cka:
        yield from _not_measured(report, "cka", title)
        return
    terms = {
        "CKA": "Centred kernel alignment of the features of two blocks: 1 if they place the images alike, whatever "
        "the rotation and scale of the features; 0 if they have nothing in common. By chance it may be a little below."
    }
    figure = figures.cka_figure(cka["values"], cka["models"], labels)
    found = findings.cka_finding(cka["values"], cka["models"])
    svg = figures.as_svg(figure, f"Heat map of CKA between all blocks. {found}")
    caption = "Bright: alike. Thin numbers: blocks."
    if len(set(cka["models"])) > 1:
        caption += " Bold numbers: networks, which the lines part."
    is_small = len(cka["names"]) <= MOST_ROWS
    yield Section(
        title,
        [found] if is_small else [found, f"All {len(cka['names'])} x {len(cka['names'])} numbers are in cka.csv."],
        terms,
        [("CKA between blocks", svg, caption)],
        {"CKA": _html(tables["cka.csv"])} if is_small else {},
    )


def _texture_sections(
    report: Mapping[str, Any], labels: Sequence[str], tables: "Mapping[str, pd.DataFrame]"
) -> Iterator[Section]:
    title = "Texture and shape"
    measured = [(label, model) for label, model in zip(labels, report["models"]) if model.get("texture")]
    if "texture.csv" not in tables:
        yield from _not_measured(report, "texture", title)
        return
    drawn, changes = [], []
    for label, model in measured:
        features = {change: cosines for change, cosines in (model["texture"].get("features") or {}).items() if cosines}
        changes += [*features, *(model["texture"].get("mean_iou") or ())]
        if features:
            heading = "Features under changes" + (f": {label}" if len(labels) > 1 else "")
            found = " ".join(findings.texture_findings(model))
            svg = figures.as_svg(figures.texture_figure(features), f"{heading}. {found}")
            drawn.append((heading, svg, "Cosine of the features with those of the unchanged image. 1: not changed."))
    drops = {label: findings.mean_iou_drops(model) for label, model in zip(labels, report["models"])}
    if any(drops.values()):
        heading = "Drop of mean IoU under changes"
        worst = {label: " ".join(findings.texture_findings(model)[-1:]) for label, model in measured if drops[label]}
        svg = figures.as_svg(figures.mean_iou_figure(drops), f"{heading}. {_by_model(worst)}")
        drawn.append((heading, svg, "Longer bars: the segmentation needs more of what the change takes away."))
    text = (
        "Each change takes something from the images. A network that goes by texture suffers when texture goes and "
        "shape stays, and hardly when shape goes and texture stays; one that goes by shape does the opposite."
    )
    # Names end with how strong a change is.
    kinds = [kind for kind in CHANGE_TERMS if any(change.startswith(kind) for change in changes)]
    terms = {figures.in_words(kind).capitalize(): CHANGE_TERMS[kind] for kind in kinds}
    yield Section(
        title,
        [text],
        terms,
        drawn,
        {"Numbers of each change": _html(tables["texture.csv"].rename(columns=figures.in_words))},
    )


def _picture_sections(pictures: Sequence[Picture]) -> Iterator[Section]:
    if pictures:
        drawn = [
            (
                picture.title,
                figures.as_svg(picture.figure, f"{picture.title}. {picture.caption}", 110),
                picture.caption,
            )
            for picture in pictures
        ]
        yield Section("Attention maps", figures=drawn)


def _not_measured(report: Mapping[str, Any], part: str, title: str) -> Iterator[Section]:
    """A section that says why it is empty, if the report says why."""
    reason = (report.get("not_measured") or {}).get(part)
    if reason:
        yield Section(title, [f"Not measured: {reason}"])


def _facts(model: Mapping[str, Any]) -> str:
    rows, columns = model["grid"]
    num_blocks = len(model["blocks"])
    return (
        f"{model['parameters']:,} parameters, {num_blocks} block{'s' * (num_blocks > 1)}, {rows} x {columns} patches "
        f"of {model['patch_size']} pixels; {model['normalisation']}."
    )


def _by_model(sentences: Mapping[str, str]) -> str:
    if len(sentences) == 1:
        return next(iter(sentences.values()))
    return " ".join(f"{label}: {sentence}" for label, sentence in sentences.items())


def _pairs(values: Mapping[str, Any]) -> str:
    texts = {name: ", ".join(map(str, value)) if isinstance(value, list) else value for name, value in values.items()}
    known = [f"{figures.in_words(name)} {text}" for name, text in texts.items() if text is not None]
    return "; ".join(known) or "not known"


def _html(table: "pd.DataFrame") -> str:
    """A table of HTML, with names escaped and numbers with four decimals."""
    shown = table.astype(object).where(table.notna(), "")  # pandas would write <NA>
    return shown.to_html(index=False, float_format="{:.4f}".format, border=0)


__all__ = ["Picture", "report_tables", "write_report"]
