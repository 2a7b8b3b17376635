"""Where a token looks, and the tab that shows it."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import (
    Dinov2Config,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from unip_hf import UnipForSemanticSegmentation, UnipImageProcessor
from unip_hf.analysis import attention_map, normalized_mutual_information
from unip_hf.data import draw_scene
from unip_hf.spaces_demo.attention import (
    MAX_TOKENS,
    ImageAttention,
    attention_picture,
    description,
    grid_for,
    legend,
    measure_attention,
)
from unip_hf.spaces_demo.attention_tab import attention_tab
from unip_hf.spaces_demo.models import Models
from unip_hf.spaces_demo.temporary import session_folder


PROCESSOR = UnipImageProcessor(num_channels=1, size={"shortest_edge": 96, "longest_edge": 640})


def with_large_weights(model: nn.Module) -> nn.Module:
    """As they are initialised, attention is nearly uniform."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


@pytest.fixture
def model(make_config: Callable) -> nn.Module:
    return with_large_weights(UnipForSemanticSegmentation(make_config(num_channels=1)))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((512, 640), (32, 40)),
        ((512, 650), (32, 40)),
        ((261, 333), (16, 21)),
        ((2048, 2048), (36, 35)),
        ((1, 1), (2, 2)),
        ((8, 20_000), (2, 640)),
        ((20_000, 8), (640, 2)),
    ],
)
def test_grids_keep_the_shape_and_are_not_too_large(size: tuple[int, int], expected: tuple[int, int]) -> None:
    grid = grid_for(*size, patch_size=16)
    assert grid == expected and grid[0] * grid[1] <= MAX_TOKENS == 1280
    assert grid_for(512, 640, patch_size=8)[0] ** 2 * 40 / 32 == pytest.approx(MAX_TOKENS, rel=0.05)


def test_attention_is_that_of_the_model(model: nn.Module, tmp_path: Path) -> None:
    image, _ = draw_scene(3, 130, 170)  # 16 bits, to 6 x 8 patches
    passes: list[torch.Size] = []
    hook = model.unip.embeddings.register_forward_hook(lambda *call: passes.append(call[2].shape))
    measured = measure_attention(model, PROCESSOR, image)
    assert measured.grid_size == (6, 8) and measured.image_size == (130, 170)
    assert measured.picture.dtype == np.uint8 and measured.picture.shape == (6 * 96, 8 * 96, 3)
    for layer in (1, 2, 3):
        measured.shares(layer, (0, 0))
    assert passes == [(1, 7, 32), (1, 49, 32)]  # a trial of 2 x 3 patches, and one pass, whatever is clicked
    hook.remove()
    assert measured.picture.std() > 20  # not white, as 16 bits cut to 8 would be

    pixel_values = PROCESSOR(image, return_tensors="pt", size={"height": 96, "width": 128})["pixel_values"]
    measured.save(tmp_path / "attention.pt")
    loaded = ImageAttention.load(tmp_path / "attention.pt")
    assert loaded.nmi == measured.nmi and loaded.grid_size == (6, 8) and loaded.image_size == (130, 170)
    np.testing.assert_array_equal(loaded.picture, measured.picture)
    for layer, heads in enumerate((2, 2, 4), start=1):
        with torch.no_grad():
            attention = attention_map(*model.unip.query_key(pixel_values, layer))  # (1, heads, 1+N, 1+N)
        assert measured.num_heads(layer) == attention.shape[1] == heads and attention.std() > 0.005
        nmi = normalized_mutual_information(attention).mean().item()
        assert measured.nmi[layer - 1] == pytest.approx(nmi, abs=1e-6)
        row, column = 4, 7
        of_token = attention[0, :, 1 + row * 8 + column]  # (heads, 1+N)
        for kept in (measured, loaded):
            shares = kept.shares(layer, (row, column))
            assert shares.shape == (49,) and shares.sum() == pytest.approx(1, abs=1e-5)
            np.testing.assert_allclose(shares, of_token.mean(dim=0), rtol=0.02, atol=1e-6)  # kept as float16
            np.testing.assert_allclose(kept.shares(layer, (row, column), heads), of_token[-1], rtol=0.02, atol=1e-6)

    with pytest.raises(gr.Error, match="no longer kept"):
        ImageAttention.load(tmp_path / "elsewhere.safetensors")


def test_pictures_and_words_say_where_it_looks() -> None:
    grid_size, token = (3, 4), (1, 1)
    shares = np.full(13, 0.01, dtype=np.float32)
    shares[0], shares[1 + 1 * 4 + 1], shares[1 + 2 * 4 + 3] = 0.3, 0.2, 0.4  # CLS, itself, the last patch
    attention = ImageAttention(np.full((60, 80, 3), 128, np.uint8), (300, 400), grid_size, [], [0.5, 0.0912])
    picture = attention_picture(attention, shares, token).astype(int)
    assert picture.shape == (60, 80, 3)
    brightness = picture.sum(axis=2)
    assert brightness[45:55, 65:75].min() > 1.5 * brightness[:15, :15].max()
    is_cyan = (picture == (0, 255, 255)).all(axis=2)
    rows, columns = np.nonzero(is_cyan)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 39, 20, 39)

    text = description(attention, shares, 2, token)
    assert "Block 2 of 2, NMI 0.09." in text and "(150, 150) gives 30% of its attention to CLS, 20% to itself" in text
    assert "8.0% to the tokens next to it" in text and "the one at (350, 250): 40%" in text
    assert "head 3" in description(attention, shares, 2, token, 3)
    assert all(f"<span>{share}</span>" in legend(shares) for share in ("0%", "10%", "40%"))


def test_other_vision_transformers_work_and_what_has_no_attention_says_so() -> None:
    backbone = Dinov2Config(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = UperNetConfig(backbone_config=backbone, hidden_size=16, pool_scales=[1], use_auxiliary_head=False)
    processor = UnipImageProcessor(num_channels=3, size={"height": 56, "width": 84})
    model = with_large_weights(UperNetForSemanticSegmentation(config))
    measured = measure_attention(model, processor, draw_scene(1)[0])
    assert measured.grid_size == (4, 6) and len(measured.nmi) == 4

    class Exported(nn.Module):
        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return pixel_values

    segformer = SegformerForSemanticSegmentation(SegformerConfig(hidden_sizes=[8, 8, 8, 8], decoder_hidden_size=8))
    for other in (segformer, Exported()):
        with pytest.raises(ValueError, match=f"of this model, {type(other).__name__}, cannot be shown"):
            measure_attention(other, processor, draw_scene(1)[0])


def wait_for_text(page: Any, text: str) -> str:
    page.locator("#attention-text").filter(has_text=text).wait_for()
    return page.locator("#attention-text").inner_text()


def test_a_distillation_token_is_not_shown(make_config: Callable) -> None:
    model = with_large_weights(UnipForSemanticSegmentation(make_config(num_channels=1, use_distillation_token=True)))
    attention = measure_attention(model, PROCESSOR, draw_scene(0, 96, 128)[0])
    assert attention.query_keys[0][0].shape[2] == 1 + 6 * 8 == 1 + np.prod(attention.grid_size)


def test_settings_of_the_image_before_do_no_harm(model: nn.Module, tmp_path: Path) -> None:
    """A click can come between a smaller image and its settings."""
    model.save_pretrained(tmp_path)
    PROCESSOR.save_pretrained(tmp_path)
    measured = measure_attention(model, PROCESSOR, draw_scene(1, 96, 128)[0])
    visitor = SimpleNamespace(session_hash="someone")
    measured.save(session_folder(visitor) / "attention.pt")  # type: ignore[arg-type]
    with gr.Blocks() as blocks:
        attention_tab(Models([str(tmp_path)]))
    show_layer = next(function.fn for function in blocks.fns.values() if function.name == "show_layer")
    last, (rows, columns) = len(measured.nmi), measured.grid_size
    picture, *_ = show_layer(last + 9, 99, (500, 500), visitor)
    token = (rows - 1, columns - 1)
    np.testing.assert_array_equal(picture, attention_picture(measured, measured.shares(last, token), token))


def test_clicks_and_blocks_in_a_browser(page: Any, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    page.get_by_role("tab", name="Attention").click()
    tab = page.get_by_role("tabpanel").filter(visible=True)
    tab.locator("button.gallery-item").first.click()
    text = wait_for_text(page, "Block 3 of 3")
    assert "The token at (168, 136) gives" in text  # in the middle of 320x256 pixels
    picture = tab.locator("#attention img")
    address = picture.get_attribute("src")
    box = picture.bounding_box()
    picture.click(position={"x": box["width"] * 0.99, "y": box["height"] * 0.01})
    wait_for_text(page, "The token at (312, 8) gives")
    expect(picture).not_to_have_attribute("src", address)
    tab.locator("#attention-head input").click()
    page.get_by_role("option", name="head 4").click()  # as many as in the last block alone
    wait_for_text(page, "head 4. The token at (312, 8)")
    tab.locator("#attention-block input[type=range]").press("Home")
    text = wait_for_text(page, "Block 1 of 3")
    assert "The token at (312, 8)" in text and "head" not in text
    assert tab.locator("#nmi img").get_attribute("src")

    (tmp_path / "wrong.png").write_text("this is no image")
    tab.get_by_label("Clear").click()
    wait_for_text(page, "Choose an image")
    tab.locator("input[type=file]").set_input_files(tmp_path / "wrong.png")
    wait_for_text(page, "wrong.png' is neither an image nor a video")
    Image.fromarray(draw_scene(1, 160, 128)[0]).save(tmp_path / "right.tif")  # 16 bits
    tab.get_by_label("Clear").click()
    wait_for_text(page, "Choose an image")
    tab.locator("input[type=file]").set_input_files(tmp_path / "right.tif")
    wait_for_text(page, "Block 1 of 3, NMI")
    assert "The network sees 8 x 10 patches" in tab.inner_text()
