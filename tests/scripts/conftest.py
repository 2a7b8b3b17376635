"""What tests of commands share: each test is a user's new process; runs are started, killed, resumed and compared."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from unip_hf import UnipForPreTraining, UnipImageProcessor
from unip_hf.scripts import cli

from ..conftest import PATIENCE, wait_until


UNIP = str(Path(sys.executable).parent / "unip")


@pytest.fixture(autouse=True)
def forget_the_process() -> Iterator[None]:
    """Accelerate keeps devices and precision for the life of a process; each test is a user's new one."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def student(make_config: Callable, tmp_path: Path) -> Path:
    """A student for images of one channel, with a normalisation of its own."""
    config = make_config(num_channels=1, layer_scale_init_value=None, position_embedding_type="sincos")
    UnipForPreTraining(config).save_pretrained(tmp_path / "student")
    UnipImageProcessor(num_channels=1, image_std=0.25).save_pretrained(tmp_path / "student")
    return tmp_path / "student"


@pytest.fixture
def refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Callable[[Sequence[object], str], None]:
    """Checks that a command in `tmp_path` ends with a sentence and status 2, and leaves all files as they are."""
    monkeypatch.chdir(tmp_path)

    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() if path.is_file() else b"" for path in tmp_path.rglob("*")}

    def check(arguments: Sequence[object], message: str) -> None:
        before = contents()
        capsys.readouterr()
        try:
            status = cli.main(list(map(str, arguments)))
        except SystemExit as end:  # of argparse
            status = end.code
        errors = capsys.readouterr().err
        assert status == 2 and message in errors and "error: " in errors and "Traceback" not in errors, errors
        assert contents() == before

    return check


SPEEDS = ("images_per_second", "tflops", "mfu")


def metrics(output_dir: Path, keeps_speeds: bool = False) -> list[dict]:
    """The lines of `metrics.jsonl` that are whole; without speeds, which differ from run to run."""
    path = output_dir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    read = [json.loads(line) for line in lines if line.endswith("\n")]
    return [{name: value for name, value in line.items() if keeps_speeds or name not in SPEEDS} for line in read]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def wait_for_step(process: subprocess.Popen, output_dir: Path, step: int) -> None:
    """Until this step is logged, while the run goes on."""

    def is_there() -> bool:
        assert process.poll() is None, "the run has ended"
        return max((line["step"] for line in metrics(output_dir)), default=0) >= step

    wait_until(is_there, f"step {step}")


def run_killed(arguments: Sequence[str], output_dir: Path, kill_at: Sequence[int]) -> subprocess.CompletedProcess:
    """Starts `unip`, kills it when each of these steps is logged, resumes it each time, and lets it end."""
    resume: list[str] = []
    for step in kill_at:
        process = subprocess.Popen([UNIP, *arguments, *resume])
        wait_for_step(process, output_dir, step)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        resume = ["--resume_from_checkpoint", "latest"]
    return subprocess.run([UNIP, *arguments, *resume], capture_output=True, text=True, timeout=PATIENCE)
