"""
Runs `unip JOB ...` in the working folder, ends it with SIGKILL at several of its writes and with each signal at random
moments, and runs it again each time. Ends with an error if a file is then other than after a run that nobody touched,
or was half written in between, or if a process or a traceback was left.

The environment variable `UNIP_KILLS` says how many writes, spread over the run; 0 for each one. `UNIP_NUM_KILLS` says
how many random moments for each signal, and `UNIP_SEED` which ones.
"""

import os
import random
import re
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from unip_hf.inference import predictor  # noqa: F401  what most jobs need, so that a fork has it
from unip_hf.scripts import cli


WRITES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir")
ALL_RIGHT, EXISTS, INTERRUPTED = 0, 2, 130
AS_ENDED_BY = {
    signal.SIGKILL: {-signal.SIGKILL},
    signal.SIGTERM: {-signal.SIGTERM, 128 + signal.SIGTERM},
    signal.SIGINT: {INTERRUPTED},
}
MOST_SECONDS = 60  # until everything has ended


def run(arguments: list[str], kill_at: int = 0, signal_at: tuple[int, float] | None = None) -> tuple[int, int]:
    """
    Runs a job in a fork of this process. `kill_at` counts writes, and `signal_at` is a signal and when it comes, in
    seconds. Returns the status, and how many writes the job began.
    """
    reader, writer = os.pipe()
    errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed at the end of the function
    if (process := os.fork()) == 0:
        os.dup2(errors.fileno(), 2)
        count, counting, home = 0, threading.RLock(), os.getcwd()

        def before_write(event: str, values: tuple) -> None:
            nonlocal count
            is_write = event in WRITES or (event == "open" and values[2] & (os.O_WRONLY | os.O_RDWR))
            if is_write and os.path.abspath(os.fsdecode(values[0])).startswith(home):
                with counting:
                    count += 1
                    if count == kill_at:
                        if event == "open":  # dies with the file begun
                            os.close(os.open(values[0], values[2], 0o666))
                        os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(before_write)
        try:
            status = cli.main(arguments)
            os.write(writer, str(count).encode())
        except KeyboardInterrupt:  # at the very end
            status = INTERRUPTED
        os._exit(status)
    os.close(writer)
    helpers = []
    if signal_at is not None:
        time.sleep(signal_at[1])
        helpers = psutil.Process(process).children(recursive=True)
        os.kill(process, signal_at[0])
    with os.fdopen(reader) as counted:
        text = counted.read()
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert not psutil.wait_procs(helpers, MOST_SECONDS)[1], f"processes are left after {signal_at}"
    with errors:
        errors.seek(0)
        said = errors.read()
    assert "Traceback" not in said, f"{said}after {signal_at}"
    return status, int(text or 0)


def contents() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path().rglob("*")) if path.is_file()}


def is_same(content: bytes | None, expected: bytes | None) -> bool:
    """Whether two files are the same but for times that were measured."""
    if content is None or expected is None:
        return content is expected
    first, second = (re.sub(rb'"milliseconds": {.*?}', b"", one, flags=re.DOTALL) for one in (content, expected))
    return first == second


def start_anew(first: dict[str, bytes]) -> None:
    """Leaves the files of the beginning, with the times that they had, because some jobs compare these."""
    for path in sorted(Path().rglob("*"), reverse=True):
        if path.is_file() and str(path) not in first:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    for name, content in first.items():
        if not Path(name).is_file() or Path(name).read_bytes() != content:
            Path(name).write_bytes(content)


def main(arguments: list[str]) -> None:
    first = contents()
    began = time.monotonic()
    status, total = run(arguments)
    seconds = time.monotonic() - began
    assert status == ALL_RIGHT and total > 0, (status, total)
    expected = contents()
    kills = int(os.environ.get("UNIP_KILLS", "3")) or total
    chance = random.Random(os.environ.get("UNIP_SEED", "0"))
    trials: list[dict] = [{"kill_at": 1 + total * part // kills} for part in range(min(kills, total))]
    for number in AS_ENDED_BY:
        for _ in range(int(os.environ.get("UNIP_NUM_KILLS", "1"))):
            trials.append({"signal_at": (number, chance.uniform(0, seconds))})
    num_ended = 0
    for trial in trials:
        start_anew(first)
        status, _ = run(arguments, **trial)
        number = trial.get("signal_at", (signal.SIGKILL,))[0]
        is_ended = status in AS_ENDED_BY[number]
        num_ended += is_ended
        assert is_ended or (status == ALL_RIGHT and "signal_at" in trial), f"status {status} after {trial}"
        for name, content in contents().items():
            is_final = ".incomplete-" not in name and "unfinished/" not in name
            if is_final and content != first.get(name) and not is_same(content, expected.get(name)):
                raise AssertionError(f"{name} is half written after {trial} of {total} writes")
        status, _ = run(arguments)
        found = contents()
        if status == EXISTS:  # what was left beside files that are whole goes when a job writes there again
            found = {name: content for name, content in found.items() if ".incomplete-" not in name}
        if status == EXISTS and found.keys() != expected.keys():
            status, _ = run([*arguments, "--overwrite"])
            found = contents()
        others = [name for name in {*expected, *found} if not is_same(found.get(name), expected.get(name))]
        if status not in (ALL_RIGHT, EXISTS) or others:
            raise AssertionError(f"after {trial} of {total} writes, status {status}: {others}")
    print(f"{arguments[0]}: ended {num_ended} times in {len(trials)} trials")


if __name__ == "__main__":
    main(sys.argv[1:])
