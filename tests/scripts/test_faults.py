"""Training that loses an image, a process, its disk or its power: it ends at once, says why, and nothing is lost."""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from accelerate import Accelerator
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from unip_hf import UnipForPreTraining
from unip_hf.files import alone, write_whole
from unip_hf.inference import load_segmentation_model
from unip_hf.scripts import cli, launch
from unip_hf.scripts.runs import open_run, started

from ..conftest import PATIENCE, save_checkpoint, wait_until
from .conftest import UNIP, metrics, same_weights, wait_for_step


NUM_KILLS = int(os.environ.get("UNIP_NUM_KILLS", "4"))  # at evenly spaced moments of a run
QUICK = ["--crop_size", "32", "--batch_size", "4", "--report_to", "none", "--log_every", "1"]
RESUME = ["--resume_from_checkpoint", "latest"]


@pytest.fixture
def student(make_config: Callable, tmp_path: Path) -> Path:
    config = make_config(num_hidden_layers=2, layer_scale_init_value=None, position_embedding_type="sincos")
    save_checkpoint(UnipForPreTraining(config), tmp_path / "student")
    return tmp_path / "student"


@pytest.fixture
def make_command(student: Path, street: Path) -> Callable[..., list[str]]:
    def make(job: str, output_dir: Path, *options: object) -> list[str]:
        words = [job, "--output_dir", output_dir, *QUICK]
        if job == "distill":
            words += ["--objective", "mae", "--students", student, "--data_dir", street / "images" / "train"]
            words += [
                "--decoder_num_hidden_layers",
                1,
                "--decoder_hidden_size",
                32,
                "--decoder_num_attention_heads",
                2,
            ]
            words += ["--num_sample_images", 2]
        else:
            words += ["--model", student, "--data_dir", street, "--skip_check", "--shortest_edge", 32]
            words += ["--window_size", 32, "--stride", 32]
        return list(map(str, [*words, *options]))

    return make


def in_two(arguments: list[str]) -> list[str]:
    return [UNIP, *arguments, "--num_processes", "2"]


def run(arguments: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE)


# Of two processes that share batches of four, the second reads the row 5 in the first step, the first one 0 in the
# second step, and of the validation rows each reads one.
@pytest.mark.slow
@pytest.mark.parametrize(("job", "bad", "options"), [
    ("distill", "images/train/5.png", ["--num_workers", 0]),
        ("distill", "images/train/5.png", ["--num_workers", 1, "--streaming"]),
    ("finetune", "images/train/0.png", ["--num_workers", 2]),
    ("finetune", "images/validation/1.png", ["--num_workers", 1]),
    ("finetune", "images/validation/1.png", ["--num_workers", 0, "--layerwise_probe"]),
])  # fmt: skip
def test_an_image_that_one_of_two_processes_cannot_read_ends_both(
    job: str, bad: str, options: list, make_command: Callable, street: Path, tmp_path: Path
) -> None:
    (street / bad).write_bytes((street / bad).read_bytes()[:50])
    done = run(in_two(make_command(job, tmp_path / "out", "--num_steps", 4, *options)))
    assert done.returncode == 2, done.stderr
    assert str(street / bad) in done.stderr and done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr and "terminate" not in done.stderr


def find_ranks(launcher: subprocess.Popen) -> list[psutil.Process]:
    """The processes of a run that train, the first one first."""
    found = [(one.environ().get("RANK"), one) for one in psutil.Process(launcher.pid).children()]
    return [one for rank, one in sorted(found, key=lambda pair: str(pair[0])) if rank is not None]


@pytest.mark.slow
def test_what_is_left_of_two_processes_ends_says_why_and_goes_on_with_the_same_weights(
    make_command: Callable, tmp_path: Path
) -> None:
    """One is killed, then a worker that reads images, then the launcher."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    options = ["--num_steps", 60, "--save_every", 2, "--evaluate_every", 20, "--num_workers", 1, "--ema_decay", 0.9]
    assert run(in_two(make_command("finetune", whole, *options))).returncode == 0
    start, resume = in_two(make_command("finetune", out, *options)), []
    for step, which, status, said in (
        (5, lambda ranks: ranks[1], 137, "error: Process 1 of the job was ended by SIGKILL"),
        (12, lambda ranks: ranks[1].children()[0], 2, "use fewer --num_workers"),
        (19, lambda ranks: ranks[0].children()[0], 2, "use fewer --num_workers"),
        (26, lambda ranks: ranks[0].parent(), -signal.SIGKILL, ""),
    ):
        process = subprocess.Popen([*start, *resume], stderr=subprocess.PIPE, text=True)
        wait_for_step(process, out, step)
        ranks = find_ranks(process)
        family = [*ranks, *(child for rank in ranks for child in rank.children())]
        which(ranks).kill()
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == status and said in errors, errors
        assert "Traceback" not in errors and "terminate" not in errors, errors
        wait_until(lambda family=family: not any(one.is_running() for one in family), "a process was left")
        resume = RESUME
    assert run([*start, *resume]).returncode == 0
    assert same_weights(whole / "last", out / "last") and metrics(whole) == metrics(out)


# Counts what is about to change in a folder, and at some point is killed.
DIES = """
import os, signal, sys
folder, left = sys.argv[1], [int(sys.argv[2])]
writes = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod"}

def count(event, arguments):
    if event in writes and isinstance(arguments[0], (str, os.PathLike)) and os.fspath(arguments[0]).startswith(folder):
        if event != "open" or (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
"""


@pytest.mark.slow
def test_a_run_killed_at_any_change_of_a_file_goes_on_with_the_same_weights(
    make_command: Callable, tmp_path: Path
) -> None:
    """A run is killed again and again, each time a bit later, also within a checkpoint, `best` and the log."""
    options = ["--num_steps", 6, "--save_every", 2, "--evaluate_every", 3, "--num_workers", 0, "--layerwise_probe"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert cli.main(make_command("finetune", whole, *options, "--ema_decay", 0.9)) == 0
    generator = random.Random(os.environ.get("UNIP_SEED", "0"))
    code = DIES + "from unip_hf.scripts import cli\nsys.exit(cli.main(sys.argv[3:]))"
    arguments = make_command("finetune", out, *options, "--ema_decay", 0.9)
    has_checkpoint = False
    for _ in range(NUM_KILLS):
        more = RESUME if has_checkpoint else ["--overwrite"]
        done = run([sys.executable, "-c", code, str(out), str(generator.randint(1, 250)), *arguments, *more])
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        had_checkpoint, has_checkpoint = has_checkpoint, bool(list(out.glob("checkpoints/step-*/state.json")))
        assert has_checkpoint >= had_checkpoint
        for kind in ("last", "best"):
            if (out / kind / "config.json").exists():
                load_segmentation_model(out / kind)
        if done.returncode == 0:
            break
    assert (
        cli.main([*arguments, *(RESUME if list(out.glob("checkpoints/step-*/state.json")) else ["--overwrite"])]) == 0
    )
    for kind in ("last", "best"):
        assert same_weights(whole / kind, out / kind)
        assert (whole / kind / "config.json").read_text() == (out / kind / "config.json").read_text()
    assert metrics(whole) == metrics(out)
    assert not list(out.rglob(".incomplete-*"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder]
    if shutil.which("mount") is None or subprocess.run(mount).returncode != 0:
        pytest.skip("this user cannot mount a disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_full_disk_ends_the_run_which_goes_on_when_there_is_space(
    num_processes: int, make_command: Callable, small_disk: Path, tmp_path: Path
) -> None:
    options = ["--num_steps", 40, "--save_every", 1, "--evaluate_every", 20, "--num_workers", 0]
    options += ["--num_processes", num_processes]
    whole, out = tmp_path / "whole", small_disk / "out"
    assert run([UNIP, *make_command("finetune", whole, *options)]).returncode == 0
    arguments = [UNIP, *make_command("finetune", out, *options)]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    wait_for_step(process, out, 3)
    with open(small_disk / "of others", "wb", buffering=0) as file:

        def fill() -> bool:
            with suppress(OSError):
                file.write(bytes(shutil.disk_usage(small_disk).free))
            return process.poll() is not None

        wait_until(fill, "the run goes on without space")
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2 and "Traceback" not in errors, errors
    assert f"error: Could not write '{out}" in errors and "where 0 MB are free" in errors, errors
    assert len(list(out.glob("checkpoints/step-*/state.json"))) >= 1
    (small_disk / "of others").unlink()
    done = run([*arguments, *RESUME])
    assert done.returncode == 0, done.stderr
    assert same_weights(whole / "last", out / "last") and metrics(whole) == metrics(out)


def test_a_second_run_in_the_same_folder_is_refused_while_the_first_is_alive(
    make_command: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    arguments = make_command("distill", out, "--num_steps", 1, "--pictures_every", 0, "--num_workers", 0)
    out.mkdir()
    with alone(out):
        assert cli.main(arguments) == 2
    assert f"Another process is writing into '{out}'" in capsys.readouterr().err
    assert not list(out.iterdir())
    assert cli.main(arguments) == 0
    with alone(out):
        assert cli.main([*arguments, "--overwrite"]) == 2
    assert json.loads((out / "run.json").read_text())["num_steps"] == 1


def test_what_another_run_wrote_since_the_folder_was_looked_at_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = argparse.Namespace(output_dir=out, resume_from_checkpoint=None, overwrite=False)
    run = open_run(options)
    out.mkdir()
    (out / "run.json").write_text("of another run")
    with pytest.raises(ValueError, match="is not empty"), started(options, run, Accelerator(cpu=True)):
        pytest.fail("started")
    assert (out / "run.json").read_text() == "of another run"


def test_a_configuration_never_stands_beside_weights_that_it_does_not_describe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(config: str, weights: str) -> None:
        with write_whole(tmp_path / "best") as staged:
            staged.mkdir()
            (staged / "config.json").write_text(config)
            (staged / "model.safetensors").write_text(weights)

    seen = []
    replace = os.replace

    def record(source: Path, target: Path) -> None:
        replace(source, target)
        seen.append(tuple(path.read_text() for path in sorted((tmp_path / "best").iterdir())))

    write("block 1", "weights 1")
    monkeypatch.setattr("unip_hf.files.os.replace", record)
    write("block 1", "weights 2")
    write("block 3", "weights 3")
    assert seen == [("block 1", "weights 2")] * 2 + [("weights 3",), ("block 3", "weights 3")]


def test_a_killed_process_and_a_killed_worker_are_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def start() -> None:
        raise ChildFailedError("job", {1: ProcessFailure(local_rank=1, pid=1, exitcode=-9, error_file="")})

    assert launch.exit_status(start) == 137
    assert "Process 1 of the job was ended by SIGKILL, perhaps because memory ran out" in capsys.readouterr().err

    def main(arguments: object) -> None:
        with write_whole(tmp_path / "file"):  # torch raises it wherever the process is
            raise RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed. ")

    assert cli.run(main, []) == 2
    said = "error: DataLoader worker (pid 5) is killed by signal: Killed. Perhaps memory ran out: use fewer"
    assert said in capsys.readouterr().err
