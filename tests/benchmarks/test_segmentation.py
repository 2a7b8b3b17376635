"""Segmentation side by side: what is measured, and the file that it writes."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import segmentation
from benchmarks.__main__ import choose_cells, main, parse_arguments
from benchmarks.measuring import MatrixPeak, median_ratio
from benchmarks.networks import make_other, make_unip
from benchmarks.segmentation import Cell, changed_pixels, measure_cell


TINY = ["--only", "segmentation", "--device", "cpu", "--repeats", "1", "--sizes", "tiny", "--image_sizes", "32x48"]


@pytest.mark.slow
def test_a_small_selection_is_written_as_json(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "bench.json"
    main([*TINY, "--runtimes", "eager", "--others", "dpt", "beit", "--output", str(file)])
    printed = capsys.readouterr().out
    assert "matrix peak" in printed and "left out: it takes square images" in printed
    written = json.loads(file.read_text())
    assert written["machine"]["torch"] == torch.__version__ and len(written["matrix_peak"]["fp32"]) == 2
    (cell,) = written["segmentation"]["cells"]
    assert cell["size"] == "tiny" and cell["image_size"] == [32, 48]
    results = {(one["network"], one["dtype"]): one for one in cell["contenders"]}
    assert set(results) == {(name, dtype) for name in ("plain", "fast", "dpt", "beit") for dtype in ("fp32", "bf16")}
    plain, fast = results["plain", "fp32"], results["fast", "fp32"]
    assert plain["ratio"] == 1 and plain["largest_difference"] == 0
    assert fast["largest_difference"] < 1e-4 and fast["changed_pixels"] < 0.01
    assert fast["gflop"] > 0 and fast["peak_megabytes"] > 0 and len(fast["seconds"]) == 1
    assert 0 < results["plain", "bf16"]["largest_difference"] < 1


def test_options_select_combinations() -> None:
    options = parse_arguments([*TINY, "--batch_sizes", "1", "4", "--dtypes", "bf16"])
    cells = choose_cells(options, "cpu")
    assert [(cell.size, cell.image_size, cell.batch_size) for cell in cells] == [("tiny", (32, 48), n) for n in (1, 4)]
    contenders = list(cells[0].contenders())
    assert contenders[0] == ("plain", "bf16", "eager")
    assert not any(runtime in ("onnx", "openvino") for _, _, runtime in contenders)  # those are fp32
    assert len(choose_cells(parse_arguments(["--all"]), "cpu")) == 12
    everything = choose_cells(parse_arguments([]), "cpu")
    assert {cell.size for cell in everything} == {"tiny", "small", "base"} and everything[0].others


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--batch_sizes", "0"], "--batch_sizes must be at least 1"),
        (["--output", "no-folder/bench.json"], "--output must be a file in an existing folder"),
    ],
)
def test_wrong_options_are_refused(options: list[str], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_arguments(options)


def test_a_network_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> nn.Module:
        raise RuntimeError("no memory\nmore")

    monkeypatch.setattr(segmentation, "make_other", fail)
    peak = MatrixPeak("cpu", ["fp32"])
    *_, failed = measure_cell(Cell("tiny", (32, 32), dtypes=("fp32",), others=("segformer",)), 1, peak)
    assert failed["problem"] == "no memory" and "seconds" not in failed


def test_other_networks_are_as_wide() -> None:
    width = make_unip("tiny").config.hidden_size
    assert make_other("beit", "tiny", (32, 48)).config.hidden_size == width
    assert make_other("dpt", "tiny", (32, 32)).config.hidden_size == width
    with pytest.raises(ValueError, match="square images"):
        make_other("dpt", "tiny", (32, 48))


def test_ratios_are_medians_of_turns() -> None:
    assert median_ratio([1, 2, 10], [2, 4, 10]) == 2
    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0]])[None, :, None]  # (1, 2, 1, 2)
    assert changed_pixels(logits, logits.flip(1), (1, 2)) == 1
    assert changed_pixels(logits, logits, (4, 8)) == 0


def test_a_noisy_machine_is_not_believed() -> None:
    peak = MatrixPeak("cpu", ["fp32"])
    peak.measure()
    assert peak.best("fp32") > 0 and 0 < peak.shares[0] <= 1
    peak.found["fp32"], peak.shares = [100e9, 95e9], [0.99, 0.3, 0.95]
    assert "too noisy" not in peak.describe()
    peak.found["fp32"].append(70e9)
    assert "too noisy" in peak.describe() and "varies by 30%" in peak.describe()
    peak.found["fp32"], peak.shares = [100e9], [0.5]
    assert "leave 50% of the cores" in peak.describe()
