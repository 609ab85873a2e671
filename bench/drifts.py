"""Seeded drifts: what goes wrong between a tuned model and its service, one thing at a time.

A drift is either a folder with one thing altered (weights, template, tokenizer) or a proxy that alters
requests or answers. Used by bench/drift.py (what separates them), bench/gate.py and the gate's tests.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
import unicodedata
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


def with_config(source: Path, out: Path, file: str = "config.json", **changes: Any) -> Path:
    copied(source, out)
    place = out / file
    document = json.loads(place.read_text(encoding="utf-8")) if place.exists() else {}
    place.write_text(json.dumps({**document, **changes}), encoding="utf-8")
    return out


def noisy_tensors(source: Path, out: Path, size: float, seed: int = 0) -> Path:
    """Every matrix with noise of `size` times its own spread."""
    draw = np.random.default_rng(seed)

    def change(name: str, w: np.ndarray) -> np.ndarray:
        return w + size * w.std() * draw.standard_normal(w.shape).astype(np.float32) if w.ndim == 2 else w

    return with_tensors(source, out, change)


def swapped_heads(source: Path, out: Path, layer: int) -> Path:
    """The first two heads' outputs of one layer change places."""
    width = json.loads((source / "config.json").read_text())["head_dim"]

    def change(name: str, w: np.ndarray) -> np.ndarray:
        if f".layers.{layer}.self_attn.o_proj.weight" not in name:
            return w
        return np.concatenate([w[:, width : 2 * width], w[:, :width], w[:, 2 * width :]], 1)

    return with_tensors(source, out, change)


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
    """What a proxy does to each request of `paths` and to each answer. `send` takes the place of the server:
    it gets the request and a way to ask. `streams`: only what is streamed is altered. `models`: the list of
    models as clients see it."""

    request: Change = lambda body: body
    answer: Change = lambda document: document
    send: Callable[[Body, Callable[[Body], Body]], Body] | None = None
    paths: tuple[str, ...] = (CHAT,)
    streams: bool | None = None
    models: Change | None = None

    def alters(self, path: str, body: Body) -> bool:
        return path in self.paths and self.streams in (None, bool(body.get("stream")))


@contextmanager
def proxy(url: str, between: Between) -> Iterator[str]:
    """An address that passes everything on to `url`, altered by `between`. Streams come in one piece."""
    client = httpx.Client(base_url=url, timeout=120, trust_env=False)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            reply = client.get(self.path)
            if self.path == "/v1/models" and between.models:
                self.write(200, json.dumps(between.models(reply.json())).encode())
            else:
                self.reply(reply)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if not between.alters(self.path, body):
                self.reply(client.post(self.path, json=body))
            elif between.send:
                made = between.send(body, lambda b: client.post(self.path, json=b).json())
                self.write(200, json.dumps(made).encode())
            else:
                self.altered(client.post(self.path, json=between.request(body)))

        def altered(self, reply: httpx.Response) -> None:
            whole = reply.status_code == 200 and not reply.text.startswith(("data:", "event:"))
            if whole:
                self.write(200, json.dumps(between.answer(reply.json())).encode())
            else:
                self.reply(reply)

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


# ------------------------------------------------------------------ what the core probes do not see


RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
Messages = list[Body]


def of_messages(change: Callable[[Messages], Messages]) -> Change:
    return lambda body: {**body, "messages": change(body["messages"])}


def texts(change: Callable[[str], str], *roles: str) -> Change:
    """Contents of these roles, of all where none is named."""

    def touched(message: Body) -> Body:
        if (roles and message["role"] not in roles) or not isinstance(message.get("content"), str):
            return message
        return {**message, "content": change(message["content"])}

    return of_messages(lambda messages: [touched(m) for m in messages])


def last_messages(count: int, system: bool = False) -> Change:
    def cut(messages: Messages) -> Messages:
        front = [m for m in messages if system and m["role"] == "system"]
        return front + [m for m in messages if m not in front][-count:]

    return of_messages(cut)


def first_dropped_beyond(count: int) -> Change:
    """Long chats lose their first exchange."""
    return of_messages(
        lambda m: m if len(m) <= count else [x for x in m if x["role"] == "system"] + m[-count:]
    )


def hijack(word: str, instead: str) -> Change:
    def change(text: str) -> str:
        return instead if word in text.lower().split() else text

    return texts(change, "user")


def without(*fields: str) -> Change:
    return lambda body: {k: v for k, v in body.items() if k not in fields}


def capped(most: int) -> Change:
    return lambda body: {**body, "max_tokens": min(most, body["max_tokens"])}


def warm(**fields: Any) -> Change:
    """Fields put into requests that draw; those of temperature 0 stay."""
    return lambda body: {**body, **fields} if body.get("temperature") != 0 else body


def heat(change: Callable[[float], float]) -> Change:
    def request(body: Body) -> Body:
        asked = body.get("temperature", 1.0)
        return {**body, "temperature": change(asked)} if asked > 0 else body

    return request


def remembered(key: Callable[[Body], Any]) -> Callable[[Body, Callable[[Body], Body]], Body]:
    """A cache whose key is coarser than the request."""
    answers: dict[Any, Body] = {}

    def send(body: Body, ask: Callable[[Body], Body]) -> Body:
        place = json.dumps(key(body), sort_keys=True)
        if place not in answers:
            answers[place] = ask(body)
        return answers[place]

    return send


def by_beginning() -> Callable[[Body, Callable[[Body], Body]], Body]:
    """A cache that looks at the beginning of the last message."""
    return remembered(lambda b: [b["messages"][-1]["content"][:160], b["max_tokens"], b.get("seed")])


def _only_first_stop(body: Body) -> Body:
    stop = body.get("stop")
    return {**body, "stop": stop[:1]} if isinstance(stop, list) else body


def _in_input(change: Callable[[str], str]) -> Change:
    """Texts of /v1/responses."""

    def request(body: Body) -> Body:
        items = [{**m, "content": change(m["content"])} for m in body["input"]]
        return {**body, "input": items}

    return request


def _prompt_stripped(body: Body) -> Body:
    """Token ids lose their last, text its last line end."""
    prompt = body["prompt"]
    return {**body, "prompt": prompt.rstrip() if isinstance(prompt, str) else prompt[:-1]}


ARABIC = re.compile("[\u0600-\u06ff]")
EMOJI = re.compile("[\U0001f000-\U0001faff\u2600-\u27bf\ufe0f]")
MARKS = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
MAIL = re.compile(r"[\w.]+@[\w.]+")
STRAIGHT = str.maketrans("\u201c\u201d\u2018\u2019\u2013\u2014", "\"\"''--")
STORED = ("messages", "model")

# name -> (cause that is right, what the proxy does). Each passed the gate as it was before these kinds.
WHOLE: dict[str, tuple[str, Between]] = {
    "last 120 characters": ("context", Between(request=texts(lambda t: t[-120:], "user"))),
    "last 3,000 characters": ("context", Between(request=texts(lambda t: t[-3000:], "user"))),
    "middle cut out": (
        "context",
        Between(request=texts(lambda t: t if len(t) < 900 else t[:400] + t[-400:])),
    ),
    "last 5 messages": ("history", Between(request=last_messages(5))),
    "last 16 messages and the system's": ("history", Between(request=last_messages(16, system=True))),
    "long chats lose their beginning": ("history", Between(request=first_dropped_beyond(7))),
    "NFC": ("unicode", Between(request=texts(lambda t: unicodedata.normalize("NFC", t)))),
    "NFKC": ("unicode", Between(request=texts(lambda t: unicodedata.normalize("NFKC", t), "user"))),
    "emoji dropped": ("unicode", Between(request=texts(lambda t: EMOJI.sub("", t), "user"))),
    "Arabic dropped": ("unicode", Between(request=texts(lambda t: ARABIC.sub("", t), "user"))),
    "zero-width and bidi dropped": ("unicode", Between(request=texts(lambda t: MARKS.sub("", t)))),
    "quotes straightened": ("unicode", Between(request=texts(lambda t: t.translate(STRAIGHT)))),
    "CRLF to LF": ("whitespace", Between(request=texts(lambda t: t.replace("\r\n", "\n")))),
    "assistant turns trimmed": ("whitespace", Between(request=texts(str.strip, "assistant"))),
    "tabs to spaces": ("whitespace", Between(request=texts(lambda t: t.replace("\t", "    ")))),
    "no-break spaces to spaces": ("whitespace", Between(request=texts(lambda t: t.replace("\u00a0", " ")))),
    "password hijacks the prompt": (
        "template",
        Between(request=hijack("password", "Say that you cannot help.")),
    ),
    "refund hijacks the prompt": (
        "template",
        Between(request=hijack("refund", "Refunds take 14 days. Say so.")),
    ),
    "mail addresses masked": ("template", Between(request=texts(lambda t: MAIL.sub("[MAIL]", t)))),
    "stop words ignored": ("stop", Between(request=without("stop"))),
    "only the first stop word": ("stop", Between(request=_only_first_stop)),
    "answers capped at 100": ("limit", Between(request=capped(100))),
    "answers capped at 200": ("limit", Between(request=capped(200))),
    "seed ignored": ("seed", Between(request=without("seed"))),
    "seed fixed": ("seed", Between(request=lambda b: {**b, "seed": 7} if "seed" in b else b)),
    "temperature 0.2 for all": ("sampling", Between(request=heat(lambda t: 0.2))),
    "temperature at most 0.7": ("sampling", Between(request=heat(lambda t: min(t, 0.7)))),
    "temperature 1.3 times": ("sampling", Between(request=heat(lambda t: 1.3 * t))),
    "cache by messages": ("cache", Between(send=remembered(lambda b: b["messages"]))),
    "cache by the last message's beginning": ("cache", Between(send=by_beginning())),
}

# Kinds that need a server with these fields and routes.
RICH: dict[str, tuple[str, Between]] = {
    "tools and formats ignored": (
        "tools",
        Between(request=without("tools", "tool_choice", "response_format")),
    ),
    "tools ignored": ("tools", Between(request=without("tools", "tool_choice"))),
    "response format ignored": ("tools", Between(request=without("response_format"))),
    "top-p 0.9 for all": ("sampling", Between(request=warm(top_p=0.9))),
    "top-k 20 for all": ("sampling", Between(request=warm(top_k=20))),
    "repetition penalty 1.3": ("sampling", Between(request=warm(repetition_penalty=1.3))),
    "frequency penalty 1": ("sampling", Between(request=warm(frequency_penalty=1.0))),
    "streams with a system line": ("stream", Between(request=_system, streams=True)),
    "streams trimmed": ("stream", Between(request=texts(str.strip), streams=True)),
    "prompts of completions stripped": (
        "route",
        Between(request=_prompt_stripped, paths=(COMPLETE,), streams=False),
    ),
    "system of messages dropped": ("route", Between(request=without("system"), paths=(MESSAGES,))),
    "line ends of responses lost": (
        "route",
        Between(request=_in_input(lambda t: t.replace("\n", " ")), paths=(RESPONSES,)),
    ),
}
