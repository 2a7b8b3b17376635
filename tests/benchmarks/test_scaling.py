"""How cost grows, what narrower heads cost, and the picture."""

import itertools
from pathlib import Path

import pytest

from benchmarks.__main__ import parse_arguments
from benchmarks.lean_head import measure_lean_head
from benchmarks.scaling import measure_point, measure_processes
from benchmarks.scaling_plot import draw_scaling


def test_a_point_is_measured_with_both_heads(capsys: pytest.CaptureFixture) -> None:
    small, large = (measure_point(1, "cpu", "tiny", side=32, batch_size=number, classes=3) for number in (1, 3))
    assert [one["head"] for one in small] == ["plain", "fast"] and small[0]["ratio"] == 1
    # the fast head also prepares its weights, whatever the batch
    assert large[0]["gflop"] == pytest.approx(3 * small[0]["gflop"])
    assert large[0]["peak_megabytes"] > 2 * small[0]["peak_megabytes"]
    assert capsys.readouterr().out.count(" ms  ratio ") == 4


def test_a_narrower_head_costs_less(capsys: pytest.CaptureFixture) -> None:
    heads = measure_lean_head(1, "cpu", ["tiny"], side=32)["heads"]
    assert [one["decoder_channels"] for one in heads] == [192, 128, 64]
    for wide, narrow in itertools.pairwise(heads):
        assert narrow["parameters"] < wide["parameters"] and narrow["gflop"] < wide["gflop"]


@pytest.mark.parametrize("name", ["curves.svg", "curves.png"])
def test_the_picture_is_drawn(tmp_path: Path, name: str) -> None:
    def points(way: str, values: tuple[int, ...]) -> list[dict]:
        basis = {"side": 256, "batch_size": 1, "classes": 9, "peak_megabytes": 10.0}
        return [
            {**basis, way: value, "head": head, "seconds": [seconds * value]}
            for value in values
            for head, seconds in (("plain", 2.0), ("fast", 1.0))
        ]

    found: dict = {way: points(way, (2, 4, 8)) for way in ("side", "batch_size", "classes")}
    found["processes"] = [
        {"job": job, "processes": number, "images_per_second": [float(number)]}
        for job in ("inference", "training")
        for number in (1, 2)
    ]
    draw_scaling(found, tmp_path / name)
    content = (tmp_path / name).read_bytes()
    draw_scaling(found, tmp_path / name)
    assert len(content) > 10_000 and content == (tmp_path / name).read_bytes()


def test_other_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="SVG or a PNG"):
        parse_arguments(["--only", "scaling", "--plot", str(tmp_path / "curves.txt")])


@pytest.mark.slow
def test_two_processes_work_at_once() -> None:
    results = measure_processes(1, "tiny", side=32, num_steps=1)
    assert [(one["job"], one["processes"]) for one in results] == [
        (job, number) for job in ("inference", "training") for number in (1, 2)
    ]
    assert all(one["images_per_second"][0] > 0 for one in results) and results[0]["ratio"] == 1
