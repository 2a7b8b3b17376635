"""What `make bench` prints of fine-tuning."""

import pytest

from benchmarks.training import measure_crops, measure_training_step


def test_crops_and_steps_are_measured(capsys: pytest.CaptureFixture) -> None:
    measure_crops(1, number=2)
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split(",")[0].strip() for line in lines] == ["grey", "grey", "16 bits", "colour"]
    measure_training_step(1, "tiny", side=64)
    lines += capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == 6 and all("ratio" in line for line in lines)
