"""Starting several processes: the configurations that come with the library, and what Accelerate would do silently."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser

from unip_hf.scripts import cli, finetune, launch
from unip_hf.scripts.options import find_shipped
from unip_hf.scripts.runs import default_num_workers

from ..conftest import PATIENCE, wait_until
from .conftest import UNIP


CONFIGS = sorted((Path(launch.__file__).parent / "accelerate").glob("*.yaml"))
PROBE = """
import sys
from accelerate import Accelerator
from unip_hf.scripts.launch import use_cpu_without_gpu

def main(arguments):
    use_cpu_without_gpu()
    accelerator = Accelerator()
    found = f"process {accelerator.process_index} of {accelerator.num_processes} on {accelerator.device.type}\\n"
    sys.stdout.write(found)  # at once, or the lines of two processes mix
    accelerator.wait_for_everyone()  # one that ends while the other still connects would make it fail
    accelerator.end_training()
    return 7 if "--fail" in arguments else 0

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


def find_config(name: Path) -> Path:
    return find_shipped(name, "accelerate", "configuration of Accelerate")


@pytest.fixture
def probe(tmp_path: Path) -> Path:
    (tmp_path / "probe.py").write_text(PROBE)
    return tmp_path / "probe.py"


def start(command: list[object], **variables: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=PATIENCE, env={**environment, **variables}
    )


def test_one_of_several_processes_is_interrupted_while_it_imports_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("atexit.register", lambda *_: None)
    monkeypatch.setattr(cli, "use_cpu_without_gpu", interrupt)
    assert cli.run(lambda _: None, []) == 130


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_knows_every_key(config: Path, recwarn: pytest.WarningsRecorder) -> None:
    settings = load_config_from_file(str(config))  # refuses unknown keys
    known = vars(launch_command_parser().parse_args(["script.py"]))
    assert set(settings.fsdp_config) <= set(known)
    assert settings.num_processes == {
        "one-gpu": 1, "eight-gpus": 8, "fsdp": 8, "several-machines": 16, "two-cpu-processes": 2
    }[config.stem]  # fmt: skip
    assert find_config(Path(config.stem)) == find_config(config) == config
    assert not recwarn.list


@pytest.mark.slow
def test_accelerate_launch_starts_two_cpu_processes_that_know_of_each_other(probe: Path) -> None:
    config = find_config(Path("two-cpu-processes"))
    done = start([sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, probe])
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["process 0 of 2 on cpu", "process 1 of 2 on cpu"]


@pytest.mark.parametrize(("config", "number"), [
    ("two-cpu-processes", 2),
    pytest.param("one-gpu", 1, marks=pytest.mark.slow),
])  # fmt: skip
def test_unip_starts_processes_and_ends_as_they_do(probe: Path, config: str, number: int) -> None:
    code = (
        "import sys; from pathlib import Path; from unip_hf.scripts.launch import launch_with_accelerate\n"
        "sys.exit(launch_with_accelerate(Path(sys.argv[1]), None, 'probe', ['--fail']))"
    )
    done = start([sys.executable, "-c", code, find_config(Path(config))], PYTHONPATH=str(probe.parent))
    lines = sorted(line.rpartition(" on ")[0] for line in done.stdout.splitlines() if line.startswith("process"))
    assert lines == [f"process {n} of {number}" for n in range(number)]
    assert done.returncode == 7 and "Traceback" not in done.stderr


@pytest.mark.parametrize(("changes", "message"), [
    ({"num_machines": 2, "num_processes": 2}, "does not say where the first one is"),
    ({"distributed_type": "MULTI_CPU", "num_processes": 2}, "Choose --accelerate_config two-cpu-processes"),
    ({"num_gpus": 2}, "unknown keys"),
    ({"distributed_type": "SEVERAL"}, "not a configuration of Accelerate"),
    ({"num_processes": 2}, "is for one process, got 2"),
])  # fmt: skip
def test_what_cannot_start_is_said(
    changes: dict[str, object], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = {"distributed_type": "NO", "num_processes": 1, "use_cpu": True, **changes}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert cli.main(["evaluate", "model", "--accelerate_config", str(tmp_path / "config.yaml")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("config", "num_gpus", "num_processes", "expected"), [
    ("one-gpu", 0, None, False), ("eight-gpus", 8, None, False), ("eight-gpus", 4, 4, False),
    ("eight-gpus", 0, 2, True), ("fsdp", 8, None, False), ("two-cpu-processes", 8, None, True),
    ("several-machines", 8, None, False), ("several-machines", 0, 2, True),
    ("eight-gpus", 4, None, "is for 8 GPUs of a machine, but this one has 4"),
    ("eight-gpus", 0, None, "is for 8 GPUs of a machine, but this one has 0"),
    ("several-machines", 8, 1, "multiple of the machines in .*, 2, got 1"),
    ("several-machines", 8, 3, "multiple of the machines in .*, 2, got 3"),
    ("one-gpu", 8, 2, "is for one process, got 2"),
])  # fmt: skip
def test_gpus_are_counted_before_anything_starts(
    config: str,
    num_gpus: int,
    num_processes: int | None,
    expected: bool | str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = find_config(Path(config)).read_text()
    (tmp_path / "config.yaml").write_text(text.replace("main_process_ip: null", "main_process_ip: 10.0.0.1"))
    monkeypatch.setattr(launch, "count_gpus", lambda: num_gpus)
    path = tmp_path / "config.yaml"
    if isinstance(expected, bool):
        assert launch.uses_cpu(path, launch.read_config(path), num_processes) is expected
    else:
        with pytest.raises(ValueError, match=expected):
            launch.uses_cpu(path, launch.read_config(path), num_processes)


@pytest.mark.slow
@pytest.mark.parametrize(("options", "number", "status"), [
    (["--num_processes", "2"], signal.SIGTERM, 143),
    (["--num_processes", "2"], signal.SIGINT, 130),
    (["--accelerate_config", "one-gpu"], signal.SIGTERM, 143),
    (["--accelerate_config", "two-cpu-processes"], signal.SIGTERM, 143),
])  # fmt: skip
def test_a_signal_reaches_what_was_started(
    options: list[str], number: signal.Signals, status: int, tmp_path: Path
) -> None:
    """To the one process that the user started, as `kill` and container runtimes send it."""
    sizes = ["--model", "tiny", "--crop_size", "32", "--shortest_edge", "32", "--num_workers", "0"]
    run = ["--dataset", "scenes", "--num_steps", "100000", "--report_to", "none", "--log_every", "1"]
    out = tmp_path / "out"
    process = subprocess.Popen([UNIP, "finetune", *sizes, *run, *options, "--output_dir", str(out)])
    wait_until(lambda: process.poll() is not None or (out / "metrics.jsonl").is_file(), "a first step")
    process.send_signal(number)
    assert process.wait(PATIENCE) == status
    assert bool(list(out.glob("checkpoints/*/state.json"))) is (number == signal.SIGTERM)


def test_unknown_names_are_said_with_the_known(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["evaluate", "model", "--accelerate_config", "two-cpu-process"]) == 2
    assert "it is neither a file nor a name such as two-cpu-processes, " in capsys.readouterr().err
    assert cli.main(["evaluate", "model", "--accelerate_config", "cluster"]) == 2
    said = capsys.readouterr().err
    assert CONFIGS and all(config.stem in said for config in CONFIGS)


def test_workers_by_the_cores_that_a_process_has(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, processes, expected in ((1, 1, 2), (2, 1, 2), (6, 1, 5), (64, 1, 8), (16, 4, 3)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert default_num_workers() == expected
    given = ["--model", "tiny", "--output_dir", "o"]
    assert finetune.parse_arguments(given).num_workers == 3
    assert finetune.parse_arguments([*given, "--num_workers", "0"]).num_workers == 0
