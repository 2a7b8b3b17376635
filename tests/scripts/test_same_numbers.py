"""What a seed decides: the same weights in every new process, however the work is divided among workers."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from unip_hf import UnipForPreTraining, UnipImageProcessor

from ..conftest import PATIENCE
from .conftest import UNIP, metrics, same_weights


@pytest.fixture
def student(make_config: Callable, tmp_path: Path) -> Path:
    UnipForPreTraining(make_config()).save_pretrained(tmp_path / "student")
    UnipImageProcessor().save_pretrained(tmp_path / "student")
    return tmp_path / "student"


@pytest.mark.slow
@pytest.mark.parametrize("job", ["finetune", "distill"])
def test_the_seed_alone_decides_the_weights(job: str, student: Path, street: Path, tmp_path: Path) -> None:
    common = ["--num_steps", "4", "--batch_size", "4", "--crop_size", "32", "--drop_path_rate", "0.2"]
    commands = {
        "finetune": ["--model", student, "--data_dir", street, "--evaluate_every", "2"],
        "distill": ["--teacher", student, "--students", student, "--data_dir", street / "images"],
    }

    def run(name: str, *options: str) -> Path:
        command = [UNIP, job, *commands[job], *common, "--output_dir", tmp_path / name, *options]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        return tmp_path / name

    first, again = run("first", "--num_workers", "1"), run("again", "--num_workers", "3")
    other = run("other", "--num_workers", "1", "--seed", "1")
    assert same_weights(first / "last", again / "last") and metrics(first) == metrics(again)
    assert not same_weights(first / "last", other / "last")
