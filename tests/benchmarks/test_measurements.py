"""What `make bench` prints."""

import pytest

from benchmarks.__main__ import main
from benchmarks.fusion import measure_fusion


def test_ratios_are_printed(capsys: pytest.CaptureFixture) -> None:
    main(["--only", "processor", "--repeats", "1"])
    printed = capsys.readouterr().out
    assert "beside SegformerImageProcessor" in printed and printed.count("ratio") == 2


def test_no_repeats_are_refused() -> None:
    with pytest.raises(ValueError, match="--repeats must be at least 1"):
        main(["--only", "processor", "--repeats", "0"])


@pytest.mark.slow
def test_a_step_of_each_method_is_measured(capsys: pytest.CaptureFixture) -> None:
    measure_fusion(1, "tiny", side=64)
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["full", "LoRA,", "IV-tuning", "UniRGB-IR"]
    assert all(line.count("ratio") == 2 for line in lines)
    assert float(lines[1].split(" M trained")[0].split()[-1]) < float(lines[0].split(" M trained")[0].split()[-1])
