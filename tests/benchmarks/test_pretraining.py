"""What the benchmark of pre-training counts and reads."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.distillation import measure_distillation
from benchmarks.pretraining import TensorMemory, measure_input, trace_step


def test_tensor_memory_counts_what_is_there_at_once() -> None:
    before = torch.zeros(1000)
    with TensorMemory() as memory:
        one = before + 1
        two = one.view(10, 100) * 2  # a view takes nothing
        assert memory.bytes == 8000
        del one, two
        kept = before.view(10, 100) + 1
    assert (memory.bytes, memory.peak) == (4000, 8000)
    del kept
    assert memory.bytes == 0


def test_cost_is_that_of_blocks_up_to_the_queries_and_keys() -> None:
    of_teacher, of_students, peak = trace_step(("tiny", 2), ("tiny",), batch_size=2)
    width, tokens = 192, 197
    linear = (tokens - 1) * 768 * width + (12 + 3) * width**2 * tokens  # patches, one block, queries to values
    attention = 2 * tokens**2 * width  # which older versions of torch do not count
    assert 2 * 2 * linear <= of_teacher <= 2 * 2 * (linear + attention)
    assert 3 * of_teacher < of_students < 30 * of_teacher
    student = 4 * 5_524_416  # weights, gradients, two averages
    assert 3.7 * student < peak < 3.7 * student + 200 * 2**20


def test_input_is_read_from_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(ValueError, match="no JPEG files"):
        measure_input(1, tmp_path)
    for number in range(3):
        grey = np.random.default_rng(number).integers(0, 256, (300, 400), dtype=np.uint8)
        Image.fromarray(grey).convert("RGB").save(tmp_path / f"{number}.jpg")
    measure_input(1, tmp_path)
    said = capsys.readouterr().out
    assert "one core, 3 JPEG files" in said and said.count("images/s   ratio") == 2
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.slow
def test_a_step_of_distillation_is_measured_beside_the_plain_one(capsys: pytest.CaptureFixture) -> None:
    measured = measure_distillation(1, teacher=("tiny", 2), student="tiny", batch_size=1)
    plain, ours = measured["steps"]
    assert plain["ratio"] == 1 and 0.05 < ours["ratio"] < 20
    assert 0 < ours["peak_megabytes"] < 1000
    assert 6e9 < measured["operations"] < 9e9  # of the student alone, see docs/pretrain.md, almost all
    assert "unip distill" in capsys.readouterr().out
