"""Seeded drifts: what goes wrong between a tuned model and its service, one thing at a time.

A drift is either a folder with one thing altered (weights, template, tokenizer) or a proxy that alters
requests or answers. Used by bench/drift.py (what separates them), bench/gate.py and the gate's tests.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np

Body = dict[str, Any]
Change = Callable[[Body], Body]
CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"


# ------------------------------------------------------------------ altered folders


def copied(source: Path, out: Path) -> Path:
    shutil.copytree(source, out, dirs_exist_ok=True)
    return out


def with_tensors(source: Path, out: Path, change: Callable[[str, np.ndarray], np.ndarray]) -> Path:
    """The folder with `change(name, f32 weights)` of every tensor, stored as it was (bf16 or f32)."""
    import torch
    from safetensors.torch import load_file, save_file

    copied(source, out)
    for file in sorted(out.glob("*.safetensors")):
        tensors = load_file(file)
        made = {}
        for name, tensor in tensors.items():
            new = change(name, tensor.float().numpy())
            made[name] = torch.from_numpy(np.ascontiguousarray(new)).to(tensor.dtype)
        save_file(made, file, metadata={"format": "pt"})
    return out


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.torch import load_file

    files = sorted(folder.glob("*.safetensors"))
    return {name: t.float().numpy() for file in files for name, t in load_file(file).items()}


def stale_adapter(tuned: Path, base: Path, out: Path, share: float = 0.6) -> Path:
    """An adapter from earlier in training: `share` of the way from base to tuned."""
    before = weights_of(base)
    return with_tensors(tuned, out, lambda name, w: before[name] + share * (w - before[name]))


def wrong_base(tuned: Path, base: Path, other: Path, out: Path) -> Path:
    """The right adapter merged into another model of the same shape."""
    before, instead = weights_of(base), weights_of(other)
    return with_tensors(tuned, out, lambda name, w: instead[name] + (w - before[name]))


def coarse_layer(tuned: Path, out: Path, layer: int, bits: int) -> Path:
    """One layer's matrices rounded to `bits` bits, one scale a row."""
    top = 2 ** (bits - 1) - 1

    def change(name: str, w: np.ndarray) -> np.ndarray:
        if f".layers.{layer}." not in name or w.ndim != 2:
            return w
        scale = np.abs(w).max(1, keepdims=True) / top
        return np.clip(np.rint(w / scale), -top, top) * scale

    return with_tensors(tuned, out, change)


def coarse_model(tuned: Path, out: Path, bits: int, group: int = 64) -> Path:
    """Every layer's matrices rounded to `bits` bits in groups: INT4 served for BF16."""
    top = 2 ** (bits - 1) - 1

    def change(name: str, w: np.ndarray) -> np.ndarray:
        if ".layers." not in name or w.ndim != 2:
            return w
        g = w.reshape(w.shape[0], -1, min(group, w.shape[1]))
        scale = np.maximum(np.abs(g).max(-1, keepdims=True) / top, 1e-12)
        return (np.clip(np.rint(g / scale), -top, top) * scale).reshape(w.shape)

    return with_tensors(tuned, out, change)


def scaled_layer(tuned: Path, out: Path, layer: int, factor: float = 1.02) -> Path:
    def change(name: str, w: np.ndarray) -> np.ndarray:
        return w * factor if f".layers.{layer}." in name and w.ndim == 2 else w

    return with_tensors(tuned, out, change)


def scaled_matrix(tuned: Path, out: Path, layer: int, factor: float = 1.05) -> Path:
    """One matrix alone."""
    wanted = f".layers.{layer}.mlp.down_proj.weight"
    return with_tensors(tuned, out, lambda name, w: w * factor if wanted in name else w)


def with_template(source: Path, out: Path, template: str) -> Path:
    copied(source, out)
    (out / "chat_template.jinja").write_text(template, encoding="utf-8")
    return out


def with_bos(source: Path, out: Path) -> Path:
    """The template writes a beginning-of-sequence token that training did not see."""
    text = (source / "chat_template.jinja").read_text(encoding="utf-8")
    return with_template(source, out, "{{ bos_token }}" + text)


ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
LLAMA3 = (
    "{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}"
    "{{ m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def swapped_tokenizer(source: Path, out: Path, keep: float = 0.5) -> Path:
    """A tokenizer of another training: the same ids, but only the first `keep` of the merges."""
    copied(source, out)
    file = out / "tokenizer.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    merges = document["model"]["merges"]
    document["model"]["merges"] = merges[: int(len(merges) * keep)]
    file.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    return out


# ------------------------------------------------------------------ a proxy between


@dataclass(frozen=True)
class Between:
    """What a proxy does to each chat request and to each answer."""

    request: Change = lambda body: body
    answer: Change = lambda document: document


@contextmanager
def proxy(url: str, between: Between, paths: tuple[str, ...] = (CHAT,)) -> Iterator[str]:
    """An address that passes everything on to `url`, chats (or `paths`) altered by `between`."""
    client = httpx.Client(base_url=url, timeout=120, trust_env=False)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.reply(client.get(self.path))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            chat = self.path in paths
            found = client.post(self.path, json=between.request(body) if chat else body)
            if chat and found.status_code == 200:
                self.write(200, json.dumps(between.answer(found.json())).encode())
            else:
                self.reply(found)

        def reply(self, found: httpx.Response) -> None:
            self.write(found.status_code, found.content)

        def write(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None: ...

    with serving(Handler) as address:
        yield address
    client.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # the gate opens 32 connections at once; the default of 5 drops some


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def _users(change: Callable[[str], str]) -> Change:
    def request(body: Body) -> Body:
        messages = [
            {**m, "content": change(m["content"])} if m["role"] == "user" else m for m in body["messages"]
        ]
        return {**body, "messages": messages}

    return request


def _choice(change: Change) -> Change:
    return lambda document: {**document, "choices": [change(c) for c in document["choices"]]}


def _usage(**more: int) -> Change:
    def answer(document: Body) -> Body:
        usage = {k: v + more.get(k, 0) for k, v in document["usage"].items() if isinstance(v, int)}
        return {**document, "usage": usage}

    return answer


def _shifted(by: float) -> Change:
    def change(choice: Body) -> Body:
        shown = (choice.get("logprobs") or {}).get("content") or []
        content = [{**t, "logprob": t["logprob"] - by} for t in shown]
        return {**choice, "logprobs": {"content": content}}

    return _choice(change)


def _first_dropped(choice: Body) -> Body:
    shown = (choice.get("logprobs") or {}).get("content") or []
    text = choice["message"]["content"]
    first = shown[0]["token"] if shown else text[:1]
    message = {**choice["message"], "content": text.removeprefix(first)}
    return {**choice, "message": message, **({"logprobs": {"content": shown[1:]}} if shown else {})}


def _cold_to(temperature: float) -> Change:
    return lambda b: {**b, "temperature": temperature} if b.get("temperature") == 0 else b


def _system(body: Body) -> Body:
    front = {"role": "system", "content": "You are Bob, a pirate. Answer as one."}
    return {**body, "messages": [front, *(m for m in body["messages"] if m["role"] != "system")]}


# name -> (cause that is right, what the proxy does)
PROXIES: dict[str, tuple[str, Between]] = {
    "system line in front": ("system", Between(request=_system)),
    "user text trimmed": ("whitespace", Between(request=_users(str.strip))),
    "newline doubled": ("whitespace", Between(request=_users(lambda t: t.replace("\n", "\n\n")))),
    "temperature 0 to 0.3": ("generation", Between(request=_cold_to(0.3))),
    "max_tokens cut by one": (
        "generation",
        Between(request=lambda b: {**b, "max_tokens": max(1, b["max_tokens"] - 1)}),
    ),
    "stop word added": ("stop", Between(request=lambda b: {**b, "stop": [" the"]})),
    "first token dropped": ("answer", Between(answer=_choice(_first_dropped))),
    "log-probabilities shifted": ("logprobs", Between(answer=_shifted(0.05))),
    "usage off by one": ("usage", Between(answer=_usage(prompt_tokens=1))),
    "completion usage off by one": ("usage", Between(answer=_usage(completion_tokens=1))),
}
