"""A plain OpenAI server over a model's own network: real weights, a real socket, one token at a time."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

from drifts import serving

from steelyard.gate.parity.requests import LONGEST

Answer = tuple[list[int], list[float], str]  # ids, their log probabilities, why it ended


class PlainServer:
    """Chat completions of the folder in f32: no cache, no batching, every field by the book."""

    def __init__(self, folder: Path) -> None:
        import torch

        from steelyard.model import Tokenizer, load

        torch.set_num_threads(1)  # matrices this small lose more to a second thread than they gain
        self.tokenizer = Tokenizer(folder)
        self.network = load(folder, dtype="float32").eval()
        self.lock = threading.Lock()
        self.answers: dict[tuple[tuple[int, ...], float, int], Answer] = {}

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt = self.tokenizer.chat_ids(body["messages"])
        with self.lock:
            ids, logprobs, finish = self.generate(prompt, body)
        text, content = self.tokenizer.decode(ids), None
        for stop in body.get("stop") or []:
            kept = next((n for n in range(len(ids)) if stop in self.tokenizer.decode(ids[: n + 1])), None)
            if kept is not None:
                ids, finish = ids[:kept], "stop"
                text = self.tokenizer.decode(ids)
        if body.get("logprobs"):
            pairs = zip(ids, logprobs, strict=False)
            content = [
                {"token": self.tokenizer.decode([i], skip_special=False), "logprob": p, "bytes": self.raw(i)}
                for i, p in pairs
            ]
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish, "index": 0}
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(ids)}
        return {
            "choices": [{**choice, "logprobs": {"content": content} if content else None}],
            "usage": usage,
        }

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            ids, logprobs, finish = self.generate(body["prompt"], body)
        pairs = zip(ids, logprobs, strict=False)
        content = [{"id": i, "token": self.tokenizer.decode([i]), "logprob": p} for i, p in pairs]
        choice = {"text": self.tokenizer.decode(ids), "finish_reason": finish, "index": 0}
        choice["logprobs"] = {"content": content}  # as llama-server tells them
        return {"choices": [choice], "usage": {}}

    def raw(self, token: int) -> list[int] | None:
        """Bytes of a byte-level token; None for a special one."""
        return None if token in self.tokenizer.special_ids else list(self.tokenizer.token_bytes(token))

    def generate(self, prompt: list[int], body: dict[str, Any]) -> Answer:
        """An equal request has an equal answer, which is computed once: tests ask one model the same rows."""
        heat, seed, most = body.get("temperature", 1.0), body.get("seed") or 0, body["max_tokens"]
        key = (tuple(prompt), heat, seed)
        ids, logprobs, finish = self.answers.get(key, ([], [], "length"))
        if finish == "length" and len(ids) < most:
            ids, logprobs, finish = self.answers[key] = self.computed(prompt, heat, seed, most)
        return ids[:most], logprobs[:most], finish if len(ids) < most else "length"

    def computed(self, prompt: list[int], heat: float, seed: int, most: int) -> Answer:
        import torch

        draw = torch.Generator().manual_seed(seed)
        ids: list[int] = []
        logprobs: list[float] = []
        while len(ids) < most:
            now = torch.tensor([prompt + ids])
            with torch.inference_mode():
                hidden = self.network(now, torch.arange(now.shape[1])[None], None)
                row = torch.log_softmax(self.network.logits(hidden[0, -1]), -1)
            token = int(row.argmax())
            if heat > 0:
                token = int(torch.multinomial(torch.softmax(row / heat, -1), 1, generator=draw))
            if token in self.tokenizer.eos_ids:
                return ids, logprobs, "stop"
            ids.append(token)
            logprobs.append(float(row[token]))
        return ids, logprobs, "length"


@contextmanager
def plain_service(folder: Path, completes: bool) -> Iterator[str]:
    """`completes`: with the older route, whose thousand tokens cost such a server seconds."""
    own = PlainServer(folder)
    routes = {"/v1/chat/completions": own.chat} | ({"/v1/completions": own.complete} if completes else {})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.write(200, {"data": [{"id": "default"}]} if self.path == "/v1/models" else {})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            answer = routes.get(self.path)
            self.write(200 if answer else 404, answer(body) if answer else {})

        def write(self, status: int, document: dict[str, Any]) -> None:
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None: ...

    with serving(Handler) as url:
        yield url


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[..., str]]:
    """`serve(folder, completes=False)` -> url; every service ends with the module."""
    with ExitStack() as stack:
        urls: dict[tuple[Path, bool], str] = {}

        def start(folder: Path, completes: bool = False) -> str:
            key = (folder, completes)
            if key not in urls:
                urls[key] = stack.enter_context(plain_service(folder, completes))
            return urls[key]

        yield start


@pytest.fixture(autouse=True)
def short_answers(request, monkeypatch):
    """The plain server computes every token of a long answer anew: only the tests of lengths ask for one."""
    if "sight" not in request.module.__name__:
        monkeypatch.setitem(LONGEST, "quick", 32)
