"""Two models or two scalings side by side."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image

from unip_hf import UnipForSemanticSegmentation, UnipImageProcessor
from unip_hf.data import draw_scene
from unip_hf.inference import InferenceSettings, segment_image
from unip_hf.modeling.image_reading_unip import read_image
from unip_hf.pictures import segmentation_palette
from unip_hf.spaces_demo.compare_tab import AS_CONFIGURED, compare_tab
from unip_hf.spaces_demo.comparison import (
    SegmentedImage,
    agreement,
    difference_picture,
    differing_pixels,
    segment,
    share_table,
    with_scaling,
)
from unip_hf.spaces_demo.models import Models
from unip_hf.spaces_demo.uploads import examples

from .conftest import wait_until_idle


def segmented(ids: list[list[int]], names: list[str]) -> SegmentedImage:
    return SegmentedImage(Image.new("RGB", (2, 2)), np.array(ids, np.uint8), dict(enumerate(names)))


def test_scalings_are_those_of_the_processor() -> None:
    celsius = {"intensity_scaling": "fixed_range", "intensity_range": [0, 40], "counts_to_celsius": [0.04, -273.15]}
    processor = UnipImageProcessor(num_channels=1, image_mean=[0.5], size={"shortest_edge": 96}, **celsius)
    before = processor.to_dict()
    counts = np.arange(7000, 7100, dtype=np.uint16).reshape(10, 10)
    np.testing.assert_allclose(with_scaling(processor, "dtype_range").scale_intensities(counts), counts / 65535)
    ranks = with_scaling(processor, "percentiles", (0, 50)).scale_intensities(counts)
    np.testing.assert_allclose(ranks, np.clip((counts - 7000.0) / 49.5, 0, 1), atol=1e-6)
    fixed = with_scaling(processor, "fixed_range", (7020, 7080))
    np.testing.assert_allclose(fixed.scale_intensities(counts), np.clip((counts - 7020.0) / 60, 0, 1), atol=1e-6)
    assert fixed.image_mean == [0.5] and fixed.size == {"shortest_edge": 96} and fixed.num_channels == 1
    assert processor.to_dict() == before
    with pytest.raises(ValueError, match="rise within 0 to 100"):
        with_scaling(processor, "percentiles", (60, 40))
    with pytest.raises(ValueError, match="must go from low to high"):
        with_scaling(processor, "fixed_range", (5, 5))
    with pytest.raises(ValueError, match="takes values as they are"):
        with_scaling(UnipImageProcessor(do_rescale=False), "percentiles")


def test_a_scaling_changes_what_the_network_sees_and_what_is_shown(make_config: Callable) -> None:
    model = UnipForSemanticSegmentation(make_config(num_channels=1)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    processor = UnipImageProcessor(num_channels=1, size={"shortest_edge": 96, "longest_edge": 200})
    image, _ = draw_scene(2, 100, 140)  # 16 bits
    dark = with_scaling(processor, "dtype_range")
    first, second = segment(model, processor, image), segment(model, dark, image)
    for segmentation, used in ((first, processor), (second, dark)):
        expected = segment_image(model, used, image, InferenceSettings.for_model(model)).argmax(dim=0)
        np.testing.assert_array_equal(segmentation.ids, expected)
        assert segmentation.picture.size == (140, 100)
    # 16 bits of which the scene fills a sliver: below the colour of a class nothing is to be seen.
    contrasts = [np.asarray(s.picture)[s.ids == np.bincount(s.ids.ravel()).argmax()].std(axis=0).max()
                 for s in (first, second)]  # fmt: skip
    assert contrasts[0] > 5 * contrasts[1]


def test_agreement_goes_by_names() -> None:
    names = ["background", "person", "car"]
    first = segmented([[0, 1], [2, 2]], names)
    second = segmented([[2, 1], [0, 1]], ["car", "person", "background"])
    is_different = differing_pixels(first, second)
    np.testing.assert_array_equal(is_different, [[False, False], [False, True]])
    assert agreement(is_different) == "Both name the same class at 75.0% of the pixels; 1 differs."
    assert "at almost 100% of the pixels; 1 differs." in agreement(np.eye(1, 10_000, dtype=bool))
    assert agreement(is_different & False) == "Both name the same class at every pixel."
    other = segmented([[0, 0], [0, 1]], ["background", "bicycle"])
    assert differing_pixels(first, other) is None and "different classes" in agreement(None)

    picture = np.asarray(difference_picture(np.full((2, 2), 100, np.uint8), is_different)).astype(int)
    assert (picture[~is_different] == 100).all() and np.ptp(picture[1, 1]) > 100

    table = share_table(first, segmented([[0, 0], [0, 1]], ["background", "<b>"]))
    rows = [row.split("</tr>")[0] for row in table.split("<tr>")[2:]]
    assert [row.split("</td>")[0] for row in rows] == [
        f"<td>{n}" for n in ("background", "car", "person", "&lt;b&gt;")
    ]
    assert "25.0%" in rows[0] and "75.0%" in rows[0] and "background: " not in rows[0]  # as in pictures, no colour
    assert rows[1].count("%") == 1 and f"rgb{tuple(segmentation_palette(3)[2].tolist())}" in rows[1]


def test_each_side_is_its_model_with_its_scaling(make_config: Callable, tmp_path: Path) -> None:
    names = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        names.append(str(tmp_path / str(seed)))
        model = UnipForSemanticSegmentation(make_config(num_channels=1, num_labels=3))
        model.decode_head.classifier.weight.data.normal_(std=2.0)
        model.decode_head.classifier.bias.data.zero_()
        model.save_pretrained(names[-1])
        UnipImageProcessor(num_channels=1, size=64).save_pretrained(names[-1])
    models = Models(names)
    with gr.Blocks() as blocks:
        compare_tab(models)
    compare = next(function.fn for function in blocks.fns.values() if function.name == "compare")
    path, as_configured = examples()[0], (AS_CONFIGURED, 0, 100)
    image = read_image(path)
    expected = [segment(*models.get(name), image) for name in names]
    is_different = differing_pixels(*expected)
    assert is_different is not None and is_different.any() and not is_different.all()

    *pictures, text, table, where = compare(path, names[0], *as_configured, names[1], *as_configured)
    for picture, segmentation in zip(pictures, expected):
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(segmentation.picture))
    assert text == agreement(is_different) and table == share_table(*expected)
    np.testing.assert_array_equal(np.asarray(where["value"]), np.asarray(difference_picture(image, is_different)))

    with pytest.raises(gr.Error, match="fill in both"):
        compare(path, names[0], *as_configured, names[1], "fixed_range", 7000, None)


def test_two_scalings_in_a_browser(page: Any) -> None:
    from playwright.sync_api import expect

    page.get_by_role("tab", name="Compare").click()
    tab = page.get_by_role("tabpanel").filter(visible=True)
    tab.get_by_role("button", name="Compare").click()
    page.locator(".toast-body").filter(has_text="Choose an image first.").wait_for()
    tab.locator("button.gallery-item").first.click()
    tab.get_by_text("scene-1").wait_for()
    tab.get_by_role("button", name="Compare").click()  # as the model is set, and between all values of the image
    tab.locator("#agreement").filter(has_text="Both name the same class at").wait_for()
    tab.locator("#differences img").wait_for()
    assert len(tab.locator("#shares tr").all()) > 1

    tab.get_by_label("Second: intensity scaling").click()
    page.get_by_role("option", name="two fixed values").click()
    lowest, highest = tab.get_by_label("lowest value"), tab.get_by_label("highest value")
    lowest.wait_for()
    counts = read_image(examples()[0])
    expect(lowest).to_have_value(str(counts.min()))
    expect(highest).to_have_value(str(counts.max()))
    wait_until_idle(page)  # a late answer would put these numbers back
    # Those of the model, in counts: (degrees + 273.15) / 0.04
    lowest.fill(str((-40 + 273.15) / 0.04))
    highest.fill(str((60 + 273.15) / 0.04))
    tab.get_by_role("button", name="Compare").click()
    tab.get_by_text("Both name the same class at every pixel.").wait_for()
