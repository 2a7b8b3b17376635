"""Progress on a terminal, on one that takes lines only, and in a file."""

import io

import pytest

from unip_hf.progress import Progress


class Stream(io.StringIO):
    def __init__(self, is_terminal: bool):
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal


@pytest.mark.parametrize(
    ("is_terminal", "name", "shows_bar"), [(True, "xterm", True), (True, "dumb", False), (False, "xterm", False)]
)
def test_a_bar_is_shown_where_it_can_be_redrawn(
    is_terminal: bool, name: str, shows_bar: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Stream(is_terminal)
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", name)
    progress = Progress("image", 2)
    progress.update("loss 1.5", steps=2)
    progress.close()
    if shows_bar:
        assert "\r" in stream.getvalue() and "100%" in stream.getvalue()
    else:
        assert stream.getvalue() == "image 2/2  loss 1.5  0 s left\n"
