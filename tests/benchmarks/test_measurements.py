"""What `make bench` prints."""

import pytest

from benchmarks.__main__ import main


def test_ratios_are_printed(capsys: pytest.CaptureFixture) -> None:
    main(["--only", "processor", "--repeats", "1"])
    printed = capsys.readouterr().out
    assert "beside SegformerImageProcessor" in printed and printed.count("ratio") == 2


def test_no_repeats_are_refused() -> None:
    with pytest.raises(ValueError, match="--repeats must be at least 1"):
        main(["--only", "processor", "--repeats", "0"])
