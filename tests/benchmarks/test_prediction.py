"""What `make bench` prints of prediction."""

import pytest

from benchmarks.prediction import measure_prediction


@pytest.mark.slow
def test_prediction_is_measured_beside_the_model(capsys: pytest.CaptureFixture) -> None:
    measure_prediction(1, "cpu", ["tiny"], count=1)
    lines = capsys.readouterr().out.splitlines()
    assert "1 JPEG files" in lines[0] and lines[1].startswith("  UNIP-Tiny, fp32") and "ratio" in lines[1]
