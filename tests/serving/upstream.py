"""An OpenAI server that does what it is told, on a port of this machine, in the place of somebody else's."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route


def text_of(words: str, finish: str = "stop") -> list[dict[str, Any]]:
    """Deltas of an answer, a word each, and the chunk with its finish."""
    chunks = [{"choices": [{"index": 0, "delta": {"content": f"{word} "}}]} for word in words.split()]
    return [*chunks, {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}]


class Upstream:
    """`bodies`: what it was asked; `status`: what it answers with; `chunks`: of a stream, in order."""

    def __init__(self, key: str | None = None, models: tuple[str, ...] = ("m",), port: int = 0) -> None:
        self.key, self.models = key, models
        self.bodies: list[dict[str, Any]] = []
        self.status, self.error = 200, {"error": {"message": "no"}}
        self.chunks = text_of("one two three")
        self.usage: dict[str, Any] | None = {"prompt_tokens": 11, "completion_tokens": 3}
        self.headers: dict[str, str] = {}
        self.owned_by = "somebody"
        self.pause_s = 0.0  # before each chunk
        self.cut_after: int | None = None  # chunks, then it breaks off
        self.poison: dict[str, int] = {}  # words of a request -> the status that it alone gets
        routes = [Route("/v1/models", self._models)]
        for path in ("chat/completions", "completions"):
            routes.append(Route(f"/v1/{path}", self._answer, methods=["POST"]))
        routes.append(Route("/v1/embeddings", self._vectors, methods=["POST"]))
        self.listening = socket.create_server(("127.0.0.1", port), reuse_port=False)
        self.port = self.listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(Starlette(routes=routes), log_config=None, lifespan="off")
        self.server = uvicorn.Server(config)
        self.server.capture_signals = _none  # type: ignore[method-assign]
        run: Callable[[], Any] = lambda: asyncio.run(self.server.serve([self.listening]))  # noqa: E731
        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        self.server.force_exit = self.server.should_exit = True
        self.thread.join(5)
        self.listening.close()

    def _refused(self, request: Request) -> Response | None:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": {"message": f"wrong key, not {self.key}"}}, 401)
        if self.status != 200 and request.method == "POST":
            return JSONResponse(self.error, self.status, self.headers)
        return None

    async def _models(self, request: Request) -> Response:
        cards = [
            {"id": name, "object": "model", "max_model_len": 4096, "owned_by": self.owned_by}
            for name in self.models
        ]
        return self._refused(request) or JSONResponse({"object": "list", "data": cards})

    async def _answer(self, request: Request) -> Response:
        self.bodies.append(body := await request.json())
        for words, status in self.poison.items():
            if words in json.dumps(body):
                return JSONResponse({"error": {"message": f"your key {self.key} may not"}}, status)
        return self._refused(request) or StreamingResponse(self._stream(), media_type="text/event-stream")

    async def _stream(self):
        usage = [{"choices": [], "usage": self.usage}] if self.usage else []
        for number, chunk in enumerate([*self.chunks, *usage]):
            if number == self.cut_after:
                raise ConnectionResetError
            await asyncio.sleep(self.pause_s)
            yield f"data: {json.dumps(chunk)}\n\n"
        yield "data: [DONE]\n\n"

    async def _vectors(self, request: Request) -> Response:
        self.bodies.append(await request.json())
        data = [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]
        document = {"object": "list", "data": data, "model": "m", "usage": {"prompt_tokens": 5}}
        return self._refused(request) or JSONResponse(document)


class _none:
    """In the place of a context manager: signals are the tests' affair."""

    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...
