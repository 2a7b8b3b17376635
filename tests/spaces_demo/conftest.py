"""The demo as a process of its own, and a real browser that reaches nothing but this machine."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from unip_hf import UnipForSemanticSegmentation, UnipImageProcessor

from ..conftest import PATIENCE, STEP_TIMEOUT, tiny_config, wait_until


APP = Path(__file__).parents[2] / "spaces_demo" / "app.py"
CLASSES = {0: "sky", 1: "road", 2: "car", 3: "person", 4: "<b>tree</b>"}


class Server(NamedTuple):
    """A running demo, where it listens, and the folder that it has for temporary files."""

    process: subprocess.Popen
    url: str
    temporary: Path


def start_server(command: list[str], folder: Path, **environment: str) -> Server:
    """Starts a demo on a free port, and waits until it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "log.txt", "w") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, "GRADIO_SERVER_PORT": str(port), "TMPDIR": str(folder), **environment},
        )

    def answers() -> bool:
        assert process.poll() is None, f"The demo did not start: {(folder / 'log.txt').read_text()}"
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    wait_until(answers, "the demo")
    return Server(process, f"http://127.0.0.1:{port}", folder)


def stop_server(server: Server) -> int:
    """Stops a demo as a system does; returns the exit status."""
    server.process.send_signal(signal.SIGTERM)
    return server.process.wait(timeout=PATIENCE)


@pytest.fixture(scope="session")
def demo_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that tells one pixel from another, for 16-bit counts with known temperatures."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    model = UnipForSemanticSegmentation(tiny_config(decoder_channels=16, id2label=CLASSES)).eval()
    model.decode_head.classifier.weight.data.normal_(std=2.0)
    model.save_pretrained(folder)
    UnipImageProcessor(
        do_resize=False,
        intensity_scaling="fixed_range",
        intensity_range=(-40, 60),
        counts_to_celsius=(0.04, -273.15),
    ).save_pretrained(folder)
    (folder / "README.md").write_text(
        "---\nlicense: mit\n---\n# A tiny network\n\n![](https://example.com/badge.png)\n![][away]\n\n"
        "<video src=https://example.com/video.mp4></video><script>document.body.remove()</script>\n\n"
        "[away]: https://example.com/other.png\n"
    )
    return folder


@pytest.fixture(scope="session")
def demo(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, str(APP), "--model", str(demo_model)]
    server = start_server(command, folder, GRADIO_HEARTBEAT_INTERVAL="1")
    yield server
    stop_server(server)


@pytest.fixture(scope="session")
def demo_url(demo: Server) -> str:
    return demo.url


def wait_until_idle(page: Any) -> None:
    """Returns when the page expects no more results: it keeps a stream open as long as it does."""
    deadline = time.monotonic() + PATIENCE
    while page.streams:
        assert time.monotonic() < deadline, "results that the page expects"
        page.wait_for_timeout(50)  # lets the events of the page come in


@pytest.fixture
def open_page(browser: object, demo_url: str) -> Iterator[Callable]:
    """Opens the demo, in a window of its own; afterwards it is checked that it asked for nothing elsewhere."""
    contexts, elsewhere = [], []

    def open_page(width: int = 1280, query: str = "") -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(STEP_TIMEOUT)

        page.streams = set()
        page.on("request", lambda request: page.streams.add(request) if "/queue/data" in request.url else None)
        for event in ("requestfinished", "requestfailed"):
            page.on(event, lambda request: page.streams.discard(request))

        def only_here(route: object) -> None:
            if route.request.url.startswith((demo_url, "data:", "blob:")):
                route.continue_()
            else:
                elsewhere.append(route.request.url)
                route.abort()

        page.route("**/*", only_here)
        page.goto(demo_url + query)
        page.get_by_role("tab", name="Segment").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert elsewhere == [], "the page works without a network"


@pytest.fixture
def page(open_page: Callable) -> object:
    """The demo in a window of 1280 pixels."""
    return open_page()
