# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What strangers may ask of the server: what the page and `gradio_client` need, of all that gradio can do."""

import logging
import re
import shutil
from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .temporary import temporary_folder
from .uploads import error_message


# Others fetch addresses for clients (proxy, file=http://...), run FFmpeg (process_recording), write files (deep_link),
# talk to the Hub (run-history), or show how the server is used (monitoring).
ROUTES = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt|pwa_icon|(static|assets|svelte)/.*)|"
    r"/gradio_api/(info|app_id|token|user|login_check|startup-events|theme\.css|upload|upload_progress|cancel|reset|"
    r"(queue|call|heartbeat)/.*|file[=/](?!.*://).*)/?",
    re.DOTALL,
)
UPLOAD = "/gradio_api/upload"
MAX_BODY_SIZE = 4 * 2**20  # bytes of a request that is no upload: more than a folder of 1,000 files needs
MIN_FREE_SPACE = 2**30  # bytes that uploads leave on the disk
# A model card may name pictures elsewhere, which would tell others who reads it.
HEADERS = [
    (b"content-security-policy", b"img-src 'self' data: blob:; media-src 'self' data: blob:; object-src 'none'"),
    (b"x-content-type-options", b"nosniff"),
]
UNUSABLE = "The server cannot do this: these are not values that its page sends."


class Guard:
    """ASGI middleware that answers itself what is refused, and what gradio has no answer to."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        has_begun = False

        async def watch(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        refusal = _refusal(scope)
        if refusal is None:
            try:
                return await self.app(scope, receive, watch)
            except Exception:
                if has_begun:
                    raise
                logging.getLogger(__name__).exception("An unusable request: %s %r", scope["method"], scope["path"])
                refusal = 400, UNUSABLE
        status, sentence = refusal
        await JSONResponse({"detail": sentence}, status)(scope, receive, send)


def _refusal(scope: Scope) -> tuple[int, str] | None:
    """Status and sentence for a request that is not passed on."""
    if not ROUTES.fullmatch(scope["path"]):
        return 404, "This server has no such page."
    if scope["method"] in ("GET", "HEAD", "OPTIONS"):
        return None
    size = int(dict(scope["headers"]).get(b"content-length", 0))  # the server has checked that it is a number
    if scope["path"].rstrip("/") == UPLOAD:
        if shutil.disk_usage(temporary_folder()).free - size < MIN_FREE_SPACE:
            return 507, "The server has no room for uploads now. Try again in half an hour."
    elif not 0 < size <= MAX_BODY_SIZE:
        return 413, f"A request must say its size, at most {MAX_BODY_SIZE // 2**20} MB, in Content-Length."
    return None


class GuardedBlocks(gr.Blocks):
    """A page whose clients can neither make the server fetch an address nor see what went wrong inside of it."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *arguments: Any, **settings: Any) -> Any:
        if _names_address(inputs):  # which gradio would download before any component sees it
            raise error_message("Addresses are not downloaded here. Upload the file.")
        try:
            return await super().preprocess_data(block_fn, inputs, *arguments, **settings)
        except gr.Error:
            raise
        except Exception as error:  # strangers must not fill the log
            raise error_message(UNUSABLE) from error

    async def process_api(self, *arguments: Any, **settings: Any) -> dict[str, Any]:
        try:
            return await super().process_api(*arguments, **settings)
        except gr.Error:
            raise
        except Exception as error:  # its message may name files of the server; the log has it
            raise gr.Error(UNUSABLE) from error


def _names_address(value: Any) -> bool:
    """Whether there is a file in what a client sent, at any depth, that lies at an address."""
    if isinstance(value, dict):
        return "://" in str(value.get("path", "")) or any(map(_names_address, value.values()))
    return isinstance(value, list) and any(map(_names_address, value))


APP_SETTINGS: dict[str, Any] = {"middleware": [Middleware(Guard)]}  # of gradio's FastAPI app


__all__ = ["APP_SETTINGS", "GuardedBlocks"]
