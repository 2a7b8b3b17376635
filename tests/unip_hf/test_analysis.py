"""Measures of attention, pictures of it, and the choice of the block to distil."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from unip_hf import UnipModel
from unip_hf.analysis import (
    attention_distance,
    attention_map,
    attention_pictures,
    nmi_curve,
    normalized_mutual_information,
)
from unip_hf.distillation import layers
from unip_hf.distillation.layers import select_layer
from unip_hf.distillation.teachers import Teacher


def distances(height: int, width: int) -> torch.Tensor:
    rows, columns = np.divmod(np.arange(height * width), width)
    return torch.from_numpy(np.hypot(rows[:, None] - rows, columns[:, None] - columns)).float()  # (N, N)


def gaussian(sigma: float, side: int = 14) -> torch.Tensor:
    """Every patch looks around itself; `(1, 1, N, N)`."""
    return torch.softmax(-(distances(side, side) ** 2) / (2 * sigma**2), dim=-1)[None, None]


def with_cls(attention: torch.Tensor, share: float = 0.3) -> torch.Tensor:
    """Before it, CLS, to which every token gives a share, and which looks at the first patch alone."""
    padded = torch.nn.functional.pad(attention * (1 - share), (1, 0, 1, 0))
    padded[..., 1:, 0] = share
    padded[..., 0, 1] = 1
    return padded


def test_nmi_gives_the_published_numbers(golden: Path) -> None:
    tensors = load_file(golden / "nmi.safetensors")
    before = tensors["attention"].clone()
    nmi = normalized_mutual_information(tensors["attention"].requires_grad_())
    assert not nmi.requires_grad
    torch.testing.assert_close(nmi, tensors["nmi"], atol=1e-6, rtol=0)
    torch.testing.assert_close(tensors["attention"].detach(), before, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("attention", "expected"),
    [
        (torch.eye(196)[None, None], 0.999993),
        (torch.full((1, 1, 196, 196), 1 / 196), 0.0),
        (torch.rand(1, 1, 1, 196).softmax(dim=-1).expand(-1, -1, 196, -1), 0.0),
        (torch.eye(196)[:1].expand(1, 1, 196, 196), 0.0),  # all look at one patch
        *zip(map(gaussian, (0.5, 1, 1.5, 2, 3, 4, 6)), (0.7626, 0.4993, 0.3651, 0.2752, 0.1596, 0.0905, 0.0288)),
    ],
)
def test_nmi_of_known_attention(attention: torch.Tensor, expected: float) -> None:
    nmi = normalized_mutual_information(attention, has_cls_token=False)
    assert nmi.shape == (1, 1) and nmi.dtype == torch.float32
    digits = 5e-5 if 0 < expected < 0.99 else 2e-6
    assert nmi.item() == pytest.approx(expected, abs=max(digits, 1e-5 * (expected == 0)))
    # CLS changes nothing, and neither does half precision much.
    assert normalized_mutual_information(with_cls(attention)).item() == pytest.approx(nmi.item(), abs=2e-5)
    rounded = normalized_mutual_information(attention.bfloat16(), has_cls_token=False)
    assert rounded.dtype == torch.float32 and rounded.item() == pytest.approx(nmi.item(), abs=2e-3)


def test_heads_and_images_are_measured_each_for_itself() -> None:
    sigmas = torch.tensor([[0.5, 4.0], [2.0, 1.0], [6.0, 3.0]])
    attention = torch.cat([torch.cat([gaussian(sigma, side=7) for sigma in row], dim=1) for row in sigmas.tolist()])
    for measure in (normalized_mutual_information, attention_distance):
        values = measure(attention, has_cls_token=False)
        assert values.shape == (3, 2)
        assert values[1, 0] == measure(gaussian(2.0, side=7), has_cls_token=False)
    assert (normalized_mutual_information(attention, has_cls_token=False).flatten().argsort(descending=True)
            == attention_distance(attention, has_cls_token=False).flatten().argsort()).all()  # fmt: skip


def test_attention_distance_is_in_pixels() -> None:
    height, width = 4, 6
    uniform = torch.full((2, 3, 24, 24), 1 / 24)
    expected = distances(height, width).mean().expand(2, 3)
    for patch_size in (16, 14):
        distance = attention_distance(with_cls(uniform), patch_size, grid_size=(height, width))
        torch.testing.assert_close(distance, expected * patch_size, atol=1e-4, rtol=0)
    right_neighbour = torch.eye(25).roll(1, dims=1)[None, None]  # and from the end of a row to the next one's start
    expected = (20 * 1 + 4 * np.hypot(1, 4) + np.hypot(4, 4)) / 25
    assert attention_distance(right_neighbour, 1, has_cls_token=False).item() == pytest.approx(expected, abs=1e-5)
    only_cls = with_cls(torch.full((1, 1, 9, 9), 1 / 9), share=1.0)  # nothing is left to renormalise: as uniform
    assert torch.isfinite(attention_distance(only_cls)).all()
    with pytest.raises(ValueError, match=r"24 patches do not fill a grid of 4 x 4: pass grid_size=\(rows, columns\)"):
        attention_distance(uniform, has_cls_token=False)


@pytest.mark.parametrize(
    ("attention", "message"),
    [
        (torch.full((4, 17, 17), 1 / 17), "one block's attention, of all its heads, with a batch dimension"),
        (torch.full((1, 4, 17, 21), 1 / 21), r"got \(1, 4, 17, 21\)"),
        (torch.randn(1, 4, 17, 17), "after softmax"),
        (torch.full((1, 4, 17, 17), float("nan")), "got nan"),
        (torch.nn.functional.dropout(torch.full((1, 4, 17, 17), 1 / 17)), "in evaluation mode"),
        (torch.full((1, 4, 2, 2), 1 / 2), "at least 2 patches .* got 1"),
    ],
)
def test_what_is_no_attention_is_refused(attention: torch.Tensor, message: str) -> None:
    for measure in (normalized_mutual_information, attention_distance):
        with pytest.raises(ValueError, match=message):
            measure(attention)


def test_attention_map_is_that_of_the_model(make_config: Callable) -> None:
    model = UnipModel(make_config(attn_implementation="eager")).eval()
    pixel_values = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        attentions = model(pixel_values, output_attentions=True).attentions
        for layer, expected in enumerate(attentions, start=1):
            query, key = model.query_key(pixel_values, layer)
            with torch.autocast("cpu", torch.bfloat16):  # of a training around it
                attention = attention_map(query, key)
            torch.testing.assert_close(attention, expected, atol=1e-6, rtol=0)
    assert attention_map(query.bfloat16(), key.bfloat16()).dtype == torch.float32


def test_the_block_nearest_to_the_target_is_selected(make_config: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    model = UnipModel(make_config(num_hidden_layers=4)).eval()
    with torch.no_grad():
        for number, layer in enumerate(model.layers):
            layer.attention.qkv.weight *= 1.0 + 2 * number  # later blocks look more sharply
    teacher = Teacher(model)
    images = torch.randn(5, 3, 64, 64)
    expected = []
    with torch.no_grad():
        for query, key in teacher.query_keys(images):
            of_heads = normalized_mutual_information(attention_map(query, key)).mean(dim=0)  # over images
            expected.append(of_heads.mean().item())
    assert expected == sorted(expected) and expected[3] > 2 * expected[0]
    for target, layer in ((0.0, 1), (1.0, 4), (expected[2] + 1e-4, 3)):
        for given in (teacher, model):
            choice = select_layer(given, images, target, batch_size=2, show_progress=False)
            assert choice.layer == layer
            assert choice.nmi == pytest.approx(expected, abs=1e-6)

    student = UnipModel(make_config())
    for nmi, layer in (([0.5, 0.1875, 0.0625], 2), ([0.0625, 0.1875, 0.1875], 1)):  # of equal ones the first
        values = iter(nmi)
        monkeypatch.setattr(layers, "normalized_mutual_information", lambda _: torch.full((5, 2), next(values)))  # noqa: B023
        assert select_layer(student, images, 0.125, show_progress=False) == (layer, nmi)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="at least one"):
        select_layer(teacher, images[:0])

    fine = UnipModel(make_config(patch_size=8))  # patches of its own size, not of a student's
    query, key = fine.query_key(images)
    assert query.shape[2] == 65
    expected = normalized_mutual_information(attention_map(query, key)).mean().item()
    assert select_layer(fine, images).nmi[-1] == pytest.approx(expected, abs=1e-6)


def test_progress_and_batches_change_nothing(make_config: Callable, capsys: pytest.CaptureFixture) -> None:
    model, images = UnipModel(make_config()), torch.randn(3, 3, 64, 64)
    choices = [select_layer(model, images, batch_size=size) for size in (1, 2, 3)]
    assert {choice.layer for choice in choices} == {choices[0].layer}
    for choice in choices:
        assert choice.nmi == pytest.approx(choices[0].nmi, abs=1e-6)
    assert "NMI of all blocks, image 3/3" in capsys.readouterr().err


def test_nmi_curve_shows_every_block_and_the_chosen_one(tmp_path: Path) -> None:
    nmi = [0.6, 0.4, 0.1, 0.02]
    figure = nmi_curve(nmi, 3, title="a teacher")
    (axes,) = figure.axes
    lines = {tuple(line.get_ydata()) for line in axes.lines}
    assert tuple(nmi) in lines and (0.09, 0.09) in lines and axes.get_title() == "a teacher"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "0.06 ... 0.12",
        "target 0.09",
        "block 3: 0.100",
    ]
    assert axes.get_ylim()[1] > 0.6
    figure.savefig(tmp_path / "curve.png")
    with pytest.raises(ValueError, match="between 1 and 4, got 5"):
        nmi_curve(nmi, 5)


def test_attention_pictures_show_where_networks_look(tmp_path: Path) -> None:
    images = torch.zeros(2, 1, 48, 96, dtype=torch.uint8)  # grids of 3 x 6 and 6 x 12 patches
    images[0, :, 32:, :16] = 200
    images[1, :, 16:32, 64:80] = 200
    to_last = torch.zeros(18, 18)
    to_last[:, -1] = 1
    attentions = {"one": with_cls(to_last.expand(2, 4, -1, -1)), "two": with_cls(torch.full((2, 3, 72, 72), 1 / 72))}
    figure = attention_pictures(images, attentions)
    panels = np.array(figure.axes).reshape(4, 3)  # 2 images x 2 queries
    assert [panel.get_title() for panel in panels[0]] == ["query\n", "one\nNMI 0.000", "two\nNMI 0.000"]
    assert panels[0, 0].images[0].get_array().shape == (48, 96, 3)
    corners = [(row[0].patches[0].get_x(), row[0].patches[0].get_y()) for row in panels]
    assert corners[0] == (-0.5, 31.5) and corners[2] == (63.5, 15.5)  # what stands out
    assert len(set(corners)) == 4
    looks = panels[0, 1].images[0].get_array()
    assert looks[32:, 80:].mean() > 5 * looks[:16, :64].mean()
    assert panels[0, 2].images[0].get_array()[:32].std(axis=(0, 1)).max() < 0.01  # everywhere
    figure.savefig(tmp_path / "pictures.png", dpi=60)
    with Image.open(tmp_path / "pictures.png") as picture:
        assert picture.width > 200

    chosen = attention_pictures(images.expand(-1, 3, -1, -1), attentions, [[(0, 0)], [(2, 5)]])
    assert len(chosen.axes) == 6
    for queries, message in (([[(3, 0)], []], "3 rows and 6 columns"), ([[(0, 0)]], "each of the 2 images")):
        with pytest.raises(ValueError, match=message):
            attention_pictures(images, attentions, queries)
    with pytest.raises(ValueError, match="uint8"):
        attention_pictures(images / 255, attentions)
    with pytest.raises(ValueError, match="for each of the 2 images"):
        attention_pictures(images, {"one": attentions["one"][:1]})
