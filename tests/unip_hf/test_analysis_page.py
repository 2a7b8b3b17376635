"""The page of an analysis: its figures, its sentences, and the files with the same numbers."""

import copy
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from unip_hf.analysis import figures, findings
from unip_hf.analysis.page import Picture, write_report


def a_model(name: str, depth: int, seed: int) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    nmi = np.geomspace(0.5, 0.03, depth) if depth > 1 else np.array([0.1])
    blocks, objects = [], []
    for number, value in enumerate(nmi, 1):
        num_heads = 3 if number < depth else 4  # as in a student of another teacher
        block = {"block": number, "pattern": "local" if value > 0.12 else "global" if value < 0.06 else "hybrid"}
        for measure, mean in (("nmi", value), ("distance", 30 + 9.0 * number), ("entropy", number / (depth + 1))):
            block |= {measure: float(mean), f"{measure}_of_heads": list(mean * generator.uniform(0.8, 1.2, num_heads))}
        blocks.append(block | {"nmi_deviation": value / 10})
        shares = generator.dirichlet([1, 2, 1, 3])
        objects.append({"block": number, **dict(zip(figures.PLACES, map(float, shares)))})
    changes = ("patch_shuffle_4", "low_pass_2")
    return {
        "name": name,
        "parameters": 5_500_000,
        "patch_size": 16,
        "grid": [14, 14],
        "normalisation": "mean 0.38, deviation 0.187",
        "blocks": blocks,
        "objects": objects,
        "object_areas": {"near": 0.04, "own_object": 0.1, "other_foreground": 0.06, "background": 0.8},
        "texture": {
            "features": {change: list(generator.uniform(0.2, 1, depth)) for change in changes},
            "mean_iou": {"clean": 0.6, "patch_shuffle_4": 0.2, "low_pass_2": 0.5},
        },
    }


def a_report(depths: dict[str, int]) -> dict[str, Any]:
    models = [a_model(name, depth, seed) for seed, (name, depth) in enumerate(depths.items())]
    names = [f"{name}, block {number}" for name, depth in depths.items() for number in range(1, depth + 1)]
    places = np.concatenate([np.linspace(0, 1, depth) for depth in depths.values()])
    return {
        "data": {"name": "hit_uav", "split": None, "num_images": 8, "size": [224, 224]},
        "settings": {"hybrid_nmi": [0.06, 0.12], "target_nmi": 0.09, "near": 1, "seed": 0},
        "versions": {"torch": "2.15.0"},
        "models": models,
        "cka": {
            "names": names,
            "models": [number for number, depth in enumerate(depths.values()) for _ in range(depth)],
            "values": np.exp(-np.abs(places[:, None] - places)).tolist(),
        },
    }


ODD_NAMES = {"runs/<b>$a$ & b_c 红外": 4, "/a/very/long/path/of/some/user/to/runs/another_" + 30 * "x" + "/best": 3}


def test_the_sentences_say_what_the_numbers_say() -> None:
    values = (0.54, 0.6, 0.1, 0.03)
    patterns = ("local", "local", "hybrid", "global")
    distances = (20.0, 90.0, 10.0, 60.0)
    blocks = [
        {"block": number, "pattern": pattern, "nmi": nmi, "distance": distance}
        for number, (pattern, nmi, distance) in enumerate(zip(patterns, values, distances), 1)
    ]
    model = {
        "blocks": blocks,
        "objects": [{"block": 1, "own_object": 0.05}, {"block": 2, "own_object": 0.3}],
        "object_areas": {"own_object": 0.12},
        "texture": {
            "features": {"low_pass": [1.0, 0.9], "patch_shuffle": [0.9, 0.4]},
            "mean_iou": {"clean": 0.6, "low_pass": 0.25, "patch_shuffle": 0.5},
        },
    }
    assert findings.summary(model, 0.09) == [
        "Attention is local in blocks 1 to 2, hybrid in block 3 and global in block 4.",
        "Nearest to the target NMI of 0.09 is block 3 (0.100).",
        "Distance rises from 20 px in block 1 to 60 px in block 4; the lowest is 10 px in block 3; "
        "the highest is 90 px in block 2.",
        "Attention on the query's own object is highest in block 2: 30.0% of the attention, 2.5 times its share of "
        "the area (12.0%).",
        "Largest change of the last block's features: patch shuffle (cosine 0.40).",
        "Largest drop of mean IoU: low pass (35.0 points, from 60.0%).",
    ]
    assert findings.course(blocks, "nmi") == (
        "NMI falls from 0.540 in block 1 to 0.030 in block 4; the highest is 0.600 in block 2."
    )
    assert findings.course(blocks[:1], "nmi") == "NMI is 0.540 in block 1, the only one."
    assert findings.summary({"blocks": blocks[:2]}, 0.09)[0] == (
        "Attention is local in blocks 1 to 2; no block is hybrid or global."
    )
    assert findings.block_ranges([1, 2, 3, 5, 7, 8]) == "blocks 1 to 3, 5 and 7 to 8"
    cka = [[1, 0.9, 0.3], [0.9, 1, 0.7], [0.3, 0.7, 1]]
    assert findings.cka_finding(cka, [0, 0, 1]) == (
        "Least alike are block 1 of network 1 and block 1 of network 2 (CKA 0.30). "
        "Most alike across networks are block 2 of network 1 and block 1 of network 2 (0.70)."
    )
    assert findings.cka_finding([[1]], [0]) == "There are no two blocks whose CKA is known."
    assert findings.cka_finding(cka, [0, 0, 0]) == "Least alike are block 1 and block 3 (CKA 0.30)."


def test_figures_show_the_numbers() -> None:
    report = a_report({"one": 4, "two": 3, "three": 1})
    models, labels = report["models"], ["1 one", "2 two", "3 three"]
    figure = figures.measure_figure(models, labels, "nmi", "NMI", (0.06, 0.12), 0.09)
    (axes,) = figure.axes
    curves = {line.get_label(): line for line in axes.lines if str(line.get_label())[0] in "123t"}
    for label, model in zip(labels, models):
        assert list(curves[label].get_ydata()) == [block["nmi"] for block in model["blocks"]]
        assert list(curves[label].get_xdata()) == [block["block"] for block in model["blocks"]]
    assert list(curves["target 0.09"].get_ydata()) == [0.09, 0.09]
    for look in ("color", "marker", "linestyle"):
        assert len({getattr(curves[label], f"get_{look}")() for label in labels}) == 3
    dots = [line for line in axes.lines if line.get_linestyle() == "None"]
    assert [len(line.get_ydata()) for line in dots] == [3 * 3 + 4, 2 * 3 + 4, 4]

    panels = figures.object_figure(models[0]["objects"], models[0]["object_areas"]).axes
    for panel, shares in zip(panels, (models[0]["objects"], [models[0]["object_areas"]])):
        for bars, name in zip(panel.containers, figures.PLACES):
            assert [bar.get_height() for bar in bars] == pytest.approx([block[name] for block in shares])
        assert [bar.get_y() + bar.get_height() for bar in panel.containers[-1]] == pytest.approx([1] * len(shares))
    (axes,) = figures.place_figure([models[0], {**models[1], "objects": None}, models[2]], labels, "own_object").axes
    times = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert set(times) == {"spread evenly", "1 one", "3 three"}
    assert times["1 one"] == pytest.approx([block["own_object"] / 0.1 for block in models[0]["objects"]])

    drops = {"1 one": {}, "2 two": findings.mean_iou_drops(models[1])}
    (axes,) = figures.mean_iou_figure(drops).axes
    (bars,) = axes.containers
    assert [bar.get_width() for bar in bars] == pytest.approx([40, 10])
    assert to_hex(bars[0].get_facecolor()) == to_hex(figures.line_style(1)["color"]), "that of the second network"

    axes = figures.cka_figure(report["cka"]["values"], report["cka"]["models"], labels).axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), report["cka"]["values"])
    borders = {line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) and line.get_ydata()[1] == 1}
    assert {3.5, 6.5} <= borders
    written = {text.get_position(): text.get_text() for text in axes.texts}
    assert written[0, 0] == "1.00" and written[1, 0] == ".72", "exp(-1 / 3)"
    assert axes.images[0].get_clim() == (0, 1)


def test_short_names_tell_networks_apart() -> None:
    assert figures.short_names(["facebook/vit-mae-base"]) == ["facebook/vit-mae-base"]
    names = ["/home/me/runs/a/best", "/home/me/other/a/best", "C:\\runs\\b\\best", "tiny"]
    assert figures.short_names(names) == ["1 runs/a/best", "2 other/a/best", "3 runs/b/best", "4 tiny"]
    twice = figures.short_names(["same"] * 2)
    assert twice == ["1 same", "2 same"]
    (long,) = figures.short_names(["x" * 20 + "y" * 40])
    assert len(long) <= 30 and long[0] == "x" and long[-1] == "y"


@pytest.mark.parametrize("depths", [{"one": 1}, {"one": 48}, dict.fromkeys("abcde", 12)], ids=str)
def test_any_number_of_networks_and_blocks_makes_a_page(depths: dict[str, int], tmp_path: Path) -> None:
    report = a_report(depths)
    page = write_report(report, [], tmp_path / "new" / "folder").read_text()
    assert page.count('<svg role="img"') == 3 + 3 + 2 * len(depths) + 1 + 1
    assert len(page) < 2_000_000
    for model in report["models"]:  # the figures of a page and its numbers are of the same report
        assert f"{model['blocks'][0]['nmi']:.4f}" in page


def test_what_is_missing_is_left_out_with_the_reason(tmp_path: Path) -> None:
    report = a_report({"one": 3})
    write_report(report, [], tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    every = {"index.html", "analysis.json", "blocks.csv", "objects.csv", "cka.csv", "texture.csv", "notes.txt"}
    assert {file.name for file in tmp_path.iterdir()} == every

    shorter = copy.deepcopy(report) | {"cka": None, "not_measured": {"objects": "hit_uav has no <masks>."}}
    (model,) = shorter["models"]
    model |= {"objects": None, "texture": None}
    model["blocks"][0] |= {"nmi": math.nan, "nmi_of_heads": [math.inf] * 3, "pattern": None}
    page = write_report(shorter, [], tmp_path).read_text()
    assert "Not measured: hit_uav has no &lt;masks&gt;." in page
    assert "Similarity of features" not in page and "Texture" not in page and "NaN" not in page
    left = {file.name for file in tmp_path.iterdir()}
    assert left == {"index.html", "analysis.json", "blocks.csv", "notes.txt"}, "no numbers of another analysis"
    saved = json.loads((tmp_path / "analysis.json").read_text(), parse_constant=pytest.fail)
    assert saved["models"][0]["blocks"][0]["nmi"] is None
    assert math.isnan(pd.read_csv(tmp_path / "blocks.csv")["nmi"][0])


@pytest.mark.filterwarnings("error")
def test_table_csv_and_json_agree_in_a_browser(browser: Any, tmp_path: Path) -> None:
    report = a_report(ODD_NAMES)
    figure = Figure(figsize=(9, 2))
    figure.add_subplot().imshow(np.eye(4))
    figure.suptitle("<i>wide</i>")
    path = write_report(report, [Picture("Maps", "Of <one> image.", figure)], tmp_path)
    assert json.loads((tmp_path / "analysis.json").read_text()) == report
    with browser.new_context(viewport={"width": 390, "height": 800}) as context:
        page = context.new_page()
        requests = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()], "it needs no other file"
        assert page.locator("script, b, i, link").count() == 0, "names are text"
        for summary in page.locator("summary").all():
            summary.click()
        # Wide tables and pictures scroll in their boxes, the page does not.
        for width in (390, 1280):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.set_viewport_size({"width": 390, "height": 800})
        sizes = page.evaluate(
            """[...document.querySelectorAll("svg text")].map(text => {
                const {a, b} = text.getScreenCTM();  // b: of texts that are turned
                return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(a, b)
            })"""
        )
        assert min(sizes) >= 11, "pixels"
        ids = page.evaluate("""[...document.querySelectorAll("[id]")].map(element => element.id)""")
        assert len(ids) == len(set(ids)) > 0
        descriptions = [svg.get_attribute("aria-label") for svg in page.get_by_role("img").all()]
        assert len(descriptions) == len(set(descriptions)) == 3 + 3 + 2 + 1 + 2 + 1 + 1
        assert "1 runs/<b>$a$ & b_c 红外: NMI falls from 0.500 in block 1 to 0.030 in block 4." in descriptions[0]

        assert page.locator("svg").first.get_by_text("1 runs/<b>$a$ & b_c 红外", exact=True).is_visible()

        assert page.get_by_role("term").filter(has_text="Low pass").count() == 1

        shown = {}
        for table in page.locator("table").all():
            header, *rows = table.evaluate("table => [...table.rows].map(row => [...row.cells].map(c => c.innerText))")
            shown[table.locator("xpath=../..").locator("summary").inner_text()] = pd.DataFrame(rows, columns=header)
    csv = {name: pd.read_csv(tmp_path / f"{name}.csv") for name in ("blocks", "objects", "texture", "cka")}
    heads = [name for name in csv["blocks"] if "_head_" in name]
    assert len(heads) == 3 * 4
    expected = {
        "Numbers of each block": csv["blocks"].drop(columns=heads),
        "Numbers of each head": csv["blocks"][["model", "block", *heads]],
        "Shares of each block": csv["objects"],
        "Numbers of each change": csv["texture"],
        "CKA": csv["cka"],
    }
    assert set(shown) == set(expected)
    for title, table in expected.items():
        for (_, of_page), (_, of_file) in zip(shown[title].items(), table.items(), strict=True):
            if pd.api.types.is_numeric_dtype(of_file):
                np.testing.assert_allclose(pd.to_numeric(of_page), of_file, atol=5.1e-5)
            else:
                assert list(of_page) == list(of_file)

    # And the files with the report, to the last digit but one: older versions of pandas do not read it.
    exactly = partial(pytest.approx, rel=1e-12)
    blocks = [(model["name"], block) for model in report["models"] for block in model["blocks"]]
    assert list(csv["blocks"]["model"]) == [name for name, _ in blocks]
    assert list(csv["blocks"]["pattern"]) == [block["pattern"] for _, block in blocks]
    for name in ("block", "nmi", "nmi_deviation", "distance", "entropy"):
        assert list(csv["blocks"][name]) == exactly([block[name] for _, block in blocks])
    for measure in ("nmi", "distance", "entropy"):
        of_heads = csv["blocks"][[f"{measure}_head_{number}" for number in range(1, 5)]].to_numpy()
        for row, (_, block) in zip(of_heads, blocks, strict=True):
            assert list(row[~np.isnan(row)]) == exactly(block[f"{measure}_of_heads"])
    objects = [block for model in report["models"] for block in model["objects"]]
    assert list(csv["objects"]["own_object"]) == exactly([block["own_object"] for block in objects])
    assert set(csv["objects"]["own_object_even"]) == {0.1}
    cosines = csv["texture"][csv["texture"]["measure"] == "cosine"]
    assert list(cosines["low_pass_2"]) == exactly(
        [value for model in report["models"] for value in model["texture"]["features"]["low_pass_2"]]
    )
    np.testing.assert_allclose(csv["cka"].drop(columns="block").to_numpy(), report["cka"]["values"], rtol=1e-12)
