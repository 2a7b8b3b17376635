"""Faults around commands: modes of files, writes that fail, ends at any moment, workers without their parent."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from unip_hf import UnipForPreTraining, UnipForSemanticSegmentation
from unip_hf.data.scenes_builder import InfraredScenes
from unip_hf.scripts import cli

from ..conftest import PATIENCE, save_checkpoint, tiny_config, wait_until
from .conftest import UNIP


ID2LABEL = {0: "cold", 1: "mild", 2: "warm"}
QUICK = "--crop_size 32 --batch_size 2 --num_workers 0 --num_steps 2 --save_every 1 --report_to tensorboard"
# Each runs in the folder of the fixture `home`, after those above it.
COMMANDS = {
    "prepare-dataset": "folder --data_dir street --output_dir prepared --num_workers 1",
    "predict": "model street/images -o predicted --save_scores",
    "publish": "model me/model --dry_run published --no_speed",
    "convert": "--to_published model published.pth",
}
SLOW_COMMANDS = {
    "prepare-infmix": "--infrared street/images --output_dir infmix --num_workers 1 --remove_near_duplicates",
    "evaluate": "model --data_dir street --num_workers 0 --whole_image",
    "publish-space": "me/space --model me/model --dry_run space",
    "check-dataset": "--data_dir street --json report/check.json",
    "show-dataset": "--data_dir street --output_file samples/show.png",
    "cost": "model --size 32 32 --no_speed --json cost.json --csv cost.csv",
    "finetune": f"--model student --data_dir street --output_dir run --evaluate_every 1 --shortest_edge 32 {QUICK}",
    "distill": f"--teacher teacher --students student --data_dir street --output_dir taught --teacher_layer 2 {QUICK}",
    "results": "run --output_file results.md",
    "export": "model --format onnx -o exported --image_size 32 32",
    "analyze": "model --data_dir street --num_images 2 --output_dir analysis",
    "prepare-dataset": "scenes --output_dir scenes --num_workers 2",
}
ALL_COMMANDS = {**SLOW_COMMANDS, **COMMANDS}
WRITING_MUCH = ("prepare-infmix", "evaluate", "publish-space")


@pytest.fixture
def home(street: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a user."""
    monkeypatch.chdir(street.parent)
    torch.manual_seed(0)
    save_checkpoint(UnipForSemanticSegmentation(tiny_config(id2label=ID2LABEL, num_labels=3, num_channels=1)), "model")
    save_checkpoint(UnipForPreTraining(tiny_config(num_channels=1)), "student")
    save_checkpoint(UnipForPreTraining(tiny_config()), "teacher")
    return street.parent


def run(job: str, options: str) -> int:
    try:
        return cli.main([job, *options.split()])
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def check_modes(home: Path, umask: int) -> None:
    """Whether everything, also in the cache, has the mode that the umask says."""
    for path in home.rglob("*"):
        wanted = (0o777 if path.is_dir() else 0o666) & ~umask
        assert path.stat().st_mode & 0o777 == wanted, f"{path.relative_to(home)}: {path.stat().st_mode:o}"


def run_with_umask(umask: int, home: Path, commands: dict[str, str]) -> None:
    before = os.umask(umask)
    try:
        for path in [home, *home.rglob("*")]:
            path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
        for job, options in commands.items():
            assert run(job, options) == 0, job
            check_modes(home, umask)
    finally:
        os.umask(before)


def test_every_file_has_the_mode_that_the_umask_says(home: Path) -> None:
    run_with_umask(0o027, home, COMMANDS)


@pytest.mark.slow
@pytest.mark.parametrize("umask", [0o002, 0o077])
def test_modes_with_any_umask(umask: int, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {split: seeds[:4] for split, seeds in InfraredScenes.SEEDS.items()}
    monkeypatch.setattr(InfraredScenes, "SEEDS", few)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", home / "cache")
    run_with_umask(umask, home, COMMANDS)
    run_with_umask(umask, home, SLOW_COMMANDS)


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file can become larger than 2,000 bytes, as on a disk that is full, whichever library writes it."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("job", [*COMMANDS, *(pytest.param(job, marks=pytest.mark.slow) for job in WRITING_MUCH)])
def test_a_write_that_fails_leaves_nothing_and_the_command_goes_on_later(
    job: str, home: Path, full_disk: None, capfd: pytest.CaptureFixture
) -> None:
    before = {path for path in home.rglob("*") if path.is_file()}
    options = ALL_COMMANDS[job]
    assert run(job, options) == 2
    error = capfd.readouterr().err
    assert "error: Could not write '" in error and "MB are free: " in error and "Traceback" not in error
    left = {path.name for path in home.rglob("*") if path.is_file() and path not in before}
    allowed = {"prepare-infmix": {"plan.json", "sources-00000.npz"}, "predict": {"predict.json"}}.get(job, set())
    assert left - allowed <= {name for name in left if job == "predict" and name.endswith(".png")}
    assert not list(home.rglob(".incomplete-*"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    assert run(job, options) == 0


@pytest.mark.slow
@pytest.mark.parametrize("job", [*COMMANDS, "prepare-infmix", "evaluate", "publish-space", "export", "analyze"])
def test_a_run_that_is_ended_goes_on_and_writes_the_same(job: str, home: Path) -> None:
    script = Path(__file__).with_name("end_and_run_again.py")
    words = [sys.executable, str(script), job, *ALL_COMMANDS[job].split()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, cwd=home)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)  # how many were in time, which `pytest -s` shows


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_an_evaluation_that_is_ended(number: signal.Signals, home: Path) -> None:
    random = np.random.default_rng(0)
    for part in range(20):  # larger than what a pipe holds
        for kind, high in (("images", 256), ("masks", 3)):
            image = Image.fromarray(random.integers(0, high, (600, 800), dtype=np.uint8))
            image.save(home / "street" / kind / "validation" / f"large-{part}.png")
    words = [UNIP, "evaluate", "model", "--data_dir", "street", "--num_workers", "2", "--window_size", "64"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    children: list[psutil.Process] = []

    def are_at_work() -> bool:
        assert process.poll() is None, process.communicate()
        children[:] = psutil.Process(process.pid).children()
        return len(children) >= 2

    wait_until(are_at_work, "two workers")
    process.send_signal(number)
    _, error = process.communicate(timeout=PATIENCE)
    status = {signal.SIGKILL: -9, signal.SIGTERM: -15, signal.SIGINT: 130}[number]
    assert process.returncode == status and "Traceback" not in error
    assert not psutil.wait_procs(children, PATIENCE)[1]
    assert json.loads((home / "model" / "config.json").read_text())["model_type"] == "unip"
    assert not (home / "model" / "evaluation").exists()
