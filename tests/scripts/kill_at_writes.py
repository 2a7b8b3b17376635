"""
Runs `unip JOB ...` in the working folder, kills it with SIGKILL at several of its writes, and runs it again each time.
Ends with an error if a file is then other than after a run that nobody touched, or was half written in between.

The environment variable `UNIP_KILLS` says how many writes, spread over the run; 0 for each one.
"""

import os
import signal
import sys
import threading
from pathlib import Path

from unip_hf.inference import predictor  # noqa: F401  what most jobs need, so that a fork has it
from unip_hf.scripts import cli


WRITES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir")
ALL_RIGHT, EXISTS = 0, 2


def run(arguments: list[str], kill_at: int = 0) -> tuple[int, int]:
    """Runs a job in a fork of this process. Returns its status, and how many writes it began."""
    reader, writer = os.pipe()
    if (process := os.fork()) == 0:
        count, counting, home = 0, threading.Lock(), os.getcwd()

        def before_write(event: str, values: tuple) -> None:
            nonlocal count
            is_write = event in WRITES or (event == "open" and values[2] & (os.O_WRONLY | os.O_RDWR))
            if is_write and os.path.abspath(os.fsdecode(values[0])).startswith(home):
                with counting:
                    count += 1
                    if count == kill_at:
                        os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(before_write)
        status = cli.main(arguments)
        os.write(writer, str(count).encode())
        os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as counted:
        text = counted.read()
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), int(text or 0)


def contents() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path().rglob("*")) if path.is_file()}


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
    status, total = run(arguments)
    assert status == ALL_RIGHT and total > 0, (status, total)
    expected = contents()
    kills = int(os.environ.get("UNIP_KILLS", "6")) or total
    for kill_at in sorted({1 + total * part // kills for part in range(kills)}):
        start_anew(first)
        assert run(arguments, kill_at)[0] == -signal.SIGKILL
        for name, content in contents().items():
            is_final = ".incomplete-" not in name and "unfinished/" not in name
            assert not is_final or content in (expected.get(name), first.get(name)), f"{name} is half written"
        status, _ = run(arguments)
        if status == EXISTS:
            status, _ = run([*arguments, "--overwrite"])
        found = contents()
        others = [name for name in {*expected, *found} if expected.get(name) != found.get(name)]
        assert status == ALL_RIGHT and not others, f"after {kill_at} of {total} writes, status {status}: {others}"


if __name__ == "__main__":
    main(sys.argv[1:])
