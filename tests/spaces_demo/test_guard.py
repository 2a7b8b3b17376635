"""Attacks on a running demo: what it does not answer, does not read, does not fetch, and never says."""

import asyncio
import http.server
import io
import json
import os
import random
import re
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from unip_hf.spaces_demo import guard

from ..conftest import PATIENCE, wait_until
from .conftest import Server


# Requests of the fuzzer; more for a long trial.
NUM_REQUESTS = int(os.environ.get("UNIP_DEMO_REQUESTS", "300"))
SECRET = "secret-7731"
WRONG_VALUES = [
    *(None, True, -1, 0, 1, 2.5, 10**30, float("nan"), float("inf"), -float("inf"), "", "1", "two", "\0", "é" * 9),
    *([], [[]], [1, 2, 3], {}, {"value": 1}, {"path": 1}, {"__type__": "update", "value": 1}, "<img src=x>"),
    *("as_configured", "percentiles", "fixed_range", "x" * 100_000, [0] * 10_000),
]


class Client:
    """Speaks with a demo as a program does that obeys no rules."""

    def __init__(self, server: Server):
        self.http = httpx.Client(base_url=server.url, timeout=PATIENCE)
        self.functions = self.http.get("/config").json()["dependencies"]

    def upload(self, name: str, content: bytes) -> dict[str, Any]:
        answer = self.http.post("/gradio_api/upload", files={"files": (name, content)})
        return file_at(answer.raise_for_status().json()[0])

    def call(self, function: int, data: Any, event: Any = None, session: str | None = None) -> str:
        """What the server says, as text: JSON of an output, or an error."""
        session = session or f"{random.getrandbits(64):x}"
        body = json.dumps({"data": data, "fn_index": function, "session_hash": session, "event_data": event})
        headers = {"Content-Type": "application/json"}
        joined = self.http.post("/gradio_api/queue/join", content=body, headers=headers)
        if joined.status_code != 200:
            assert joined.status_code in (400, 413, 422) and joined.json()["detail"], joined.text
            return joined.text
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data:") or "{}")
                if message.get("msg") == "process_completed":
                    assert message["success"] or re.search(r"\w+ .*\w", message["output"]["error"]), message
                    return json.dumps(message["output"], ensure_ascii=False)
        raise AssertionError("there is no answer")

    def function(self, name: str) -> int:
        return next(function["id"] for function in self.functions if function["api_name"] == name)


def file_at(place: str, **others: Any) -> dict[str, Any]:
    return {"path": place, "meta": {"_type": "gradio.FileData"}, **others}


@pytest.fixture(scope="module")
def client(demo: Server) -> Iterator[Client]:
    client = Client(demo)
    yield client
    client.http.close()


@pytest.fixture(scope="module")
def canary(demo: Server) -> Path:
    """A file that is not the visitor's, in the folder that the demo was started in."""
    path = demo.temporary / "canary.png"
    Image.fromarray(np.full((40, 50), 77, np.uint8)).save(path)
    path.with_suffix(".txt").write_text(SECRET)
    path.with_name("link.png").symlink_to(path)
    return path


@pytest.fixture
def fetched() -> Iterator[tuple[str, list[str]]]:
    """The address of a server, and what it was asked for."""
    asked: list[str] = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(SECRET.encode())

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


def test_files_of_the_server_and_addresses_are_refused(
    client: Client, demo_model: Path, canary: Path, fetched: tuple[str, list[str]]
) -> None:
    address, asked = fetched
    uploaded = client.upload("mine.png", canary.read_bytes())["path"]
    places = [str(canary), str(canary.with_name("link.png")), f"{uploaded}/../../../../canary.png", "/etc/passwd"]
    addresses = [f"{address}/a.png", "http://169.254.169.254/latest/", f"file://{canary}", "http://no.example/a.mp4"]
    inputs = {
        "segment": lambda file: [str(demo_model), [file], 50],
        "show_image": lambda file: [file, str(demo_model), 1, None],
        "show_numbers": lambda file: ["fixed_range", file],
        "describe": lambda file: [file],  # where there should be no file at all
    }
    for number, (name, make) in enumerate(inputs.items()):
        forged = {"url": f"{address}/url", "orig_name": "../mine.png", "is_stream": True} if number % 2 else {}
        for place in places if number == 0 else places[:1]:
            answer = client.call(client.function(name), make(file_at(place, **forged)))
            assert guard.UNUSABLE in answer, answer
        for place in addresses if number == 1 else addresses[:1]:
            answer = client.call(client.function(name), make(file_at(place, **forged)))
            assert "Addresses are not downloaded here" in answer, answer
    for place in (*places, str(canary.with_suffix(".txt")), *addresses):
        for route in ("/gradio_api/file=", "/gradio_api/file/", "/file=", "/gradio_api/proxy="):
            answer = client.http.get(route + quote(place))
            assert answer.status_code in (403, 404) and SECRET not in answer.text
    assert "no such page" in client.http.get(f"/gradio_api/file={addresses[-1]}").text, "gradio would fetch it"
    assert asked == []


@pytest.mark.parametrize(
    ("method", "route"),
    [
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/run-history/connect"),
        ("GET", "/gradio_api/deep_link?session_hash=a"),
        ("GET", "/gradio_api/custom_component/a/client/b/c"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/run/segment"),
        ("GET", "/monitoring/summary"),
        ("POST", "/login"),
        ("GET", "/gradio_api/proxy=https://a.hf.space/"),
        ("POST", "/gradio_api/vibe-edit"),
    ],
)
def test_what_the_page_does_not_need_is_not_there(client: Client, method: str, route: str) -> None:
    answer = client.http.request(method, route)
    assert answer.status_code == 404 and answer.json() == {"detail": "This server has no such page."}


def test_requests_have_a_size(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    join = "/gradio_api/queue/join"
    large = client.http.post(join, content=b"[" * (guard.MAX_BODY_SIZE + 1))
    unknown = client.http.post(join, content=iter([b"{}"]))
    assert large.status_code == unknown.status_code == 413 and "Content-Length" in large.json()["detail"]
    deep = client.call(client.function("segment"), json.loads("[" * 900 + "]" * 900))
    assert "error" in deep or "detail" in deep
    deeper = client.http.post(join, content=b"[" * 10**6, headers={"Content-Type": "application/json"})
    assert deeper.status_code in (400, 422) and deeper.json()["detail"]
    assert client.http.get("/config").status_code == 200


@pytest.mark.slow
def test_requests_leave_no_files_open_and_none_behind(client: Client, demo: Server, demo_model: Path) -> None:
    """Five pages, each with an image, an archive, attention, a comparison and a refusal, three times."""
    names = ("segment", "show_image", "compare")
    segment, show_image, compare = (client.function(name) for name in names)
    image = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(6700, 7900, (60, 80)).astype(np.uint16)).save(image, "PNG")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("one.png", image.getvalue())
        file.writestr("two.png", image.getvalue())
    model = str(demo_model)

    def visit(number: int) -> None:
        session = f"page-{number}-{random.getrandbits(64):x}"
        with client.http.stream("GET", f"/gradio_api/heartbeat/{session}") as heartbeat:
            lines = heartbeat.iter_lines()  # kept, because the page is closed with it
            next(lines)
            one, two = client.upload("one.png", image.getvalue()), client.upload("two.zip", archive.getvalue())
            for data in ([model, [one], 50], [model, [two], 50]):
                assert "mask" in client.call(segment, data, session=session)
            assert "NMI" in client.call(show_image, [one, model, 1, None], session=session)
            sides = [model, "as_configured", 0, 1, model, "percentiles", 0, 100]
            assert "pixels" in client.call(compare, [one, *sides], session=session)
            assert "Upload an image first" in client.call(segment, [model, [], 50], session=session)

    sessions = next(demo.temporary.glob("unip-demo-*")) / "sessions"
    counts = []
    for _ in range(3):
        for number in range(5):
            visit(number)
        wait_until(lambda: not any(sessions.iterdir()), "files deleted")
        client.http.close()
        client.http = httpx.Client(base_url=demo.url, timeout=PATIENCE)
        pictures = list(sessions.with_name("gradio").rglob("*.png"))  # the same ones again; archives tell the time
        counts.append((len(os.listdir(f"/proc/{demo.process.pid}/fd")), len(pictures)))
    assert counts[2][0] <= counts[1][0] + 2 and counts[2][1] == counts[1][1], counts


def wrong_value(chance: random.Random, places: list[str], depth: int = 0) -> Any:
    kind = chance.random()
    if kind < 0.2:
        return file_at(chance.choice(places), is_stream=chance.random() < 0.3, size=chance.choice([None, -1, 1e30]))
    if kind < 0.4 and depth < 3:
        return [wrong_value(chance, places, depth + 1) for _ in range(chance.randrange(4))]
    return chance.choice(WRONG_VALUES)


@pytest.mark.slow
def test_every_request_gets_an_answer_and_none_tells_of_the_server(
    client: Client, demo: Server, demo_model: Path, canary: Path, fetched: tuple[str, list[str]]
) -> None:
    address, asked = fetched
    chance = random.Random(int(os.environ.get("UNIP_DEMO_SEED", "0")))
    mine = client.upload("mine.png", canary.read_bytes())["path"]
    places = [str(canary), "/etc/passwd", f"{address}/a", mine, mine + "x", "", ".", "~", "\0", "pipe:0", "a" * 300]
    right = [str(demo_model), [file_at(mine)], file_at(mine), 1, 50, 0, *WRONG_VALUES]
    counts = {"answer": 0, "refusal": 0}
    for _ in range(NUM_REQUESTS):
        function = chance.choice(client.functions)
        number = max(0, len(function["inputs"]) + chance.choice([0, 0, 0, 0, 0, 0, -1, 1, 9]))
        data: Any = [
            chance.choice(right) if chance.random() < 0.6 else wrong_value(chance, places) for _ in range(number)
        ]
        data = data if chance.random() < 0.95 else chance.choice([None, {}, "data", 5])
        event: Any = chance.choice([None, {}, [], "x", {"index": wrong_value(chance, places)}, {"index": [7, 7]}])
        number = chance.choice([function["id"]] * 9 + [10**6, -1])
        session = chance.choice([None, None, "shared", "../../x", "\0", "s" * 5000])
        text = client.call(number, data, event, session)
        refused = '"error"' in text or '"detail"' in text
        counts["refusal" if refused else "answer"] += 1
        if refused and '"detail":[' not in text.replace(" ", ""):  # a validator repeats what it was sent
            text = text.replace(mine, "")
            assert "site-packages" not in text and str(demo.temporary / "unip-demo") not in text, text
        assert SECRET not in text
        assert demo.process.poll() is None
    print(counts)
    assert asked == [] and min(counts.values()) > NUM_REQUESTS / 20
    segmented = client.call(client.function("segment"), [str(demo_model), [file_at(mine)], 50])
    assert "mine-mask.png" in segmented, "it still works"


def test_uploads_leave_space_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse({})(scope, receive, send)

    async def send(size: int) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guard.Guard(app)), base_url="http://demo") as http:
            return await http.post(guard.UPLOAD, content=bytes(size))

    def upload(size: int) -> httpx.Response:
        with ThreadPoolExecutor(1) as pool:  # the browser of other tests has an event loop in this thread
            return pool.submit(asyncio.run, send(size)).result()

    monkeypatch.setattr(guard.shutil, "disk_usage", lambda folder: SimpleNamespace(free=guard.MIN_FREE_SPACE + 1000))
    assert upload(1000).status_code == 200
    refused = upload(1001)
    assert refused.status_code == 507 and "no room" in refused.json()["detail"]
