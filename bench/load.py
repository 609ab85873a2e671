"""Load on an OpenAI-compatible server: users who always have one request in flight, over bare sockets.

Prompts are words drawn by a seed, so that every server is sent the same load. Kinds of request: "plain",
"prefix" (all share their first 1,000 tokens), "quote" (the answer repeats the prompt), "mixed" (half plain,
a quarter each of the others). A light client: on a small machine its cores are the server's.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

TEXT = (
    "river stone paper garden winter engine market report office signal bridge forest letter window candle "
    "harbour ticket number copper silver meadow planet kitchen village doctor reason summer valley teacher "
    "yellow basket mirror island pocket tunnel wagon orange ladder castle border"
)
WORDS = TEXT.split()
PREFIX_TOKENS = 1000


@dataclass(frozen=True, slots=True)
class Asked:
    """One answered request: seconds to the first text, to the last, and tokens as `usage` counts them."""

    first_s: float
    last_s: float
    tokens: int
    prompt_tokens: int
    text: str


def words(chance: random.Random, count: int) -> str:
    return " ".join(chance.choice(WORDS) for _ in range(count))


def message(kind: str, n: int, tokens: int, seed: int) -> str:
    """The user's text of request n, about `tokens` long (these words are one token each)."""
    chance = random.Random(f"{seed}:{kind}:{n}")
    if kind == "prefix":
        return words(random.Random(f"{seed}:shared"), PREFIX_TOKENS) + "\n" + words(chance, 32)
    if kind == "quote":
        own = words(chance, max(tokens // 4, 8))
        return f"Repeat this list word for word, again and again.\n{own}\n{own}\n{own}\n{own}"
    return "Continue this text at length: " + words(chance, tokens)


def kind_of(load: str, n: int) -> str:
    return ("plain", "prefix", "plain", "quote")[n % 4] if load == "mixed" else load


def bodies(
    load: str, count: int, *, tokens: int = 128, new: int = 64, seed: int = 0, **more: Any
) -> list[dict[str, Any]]:
    return [
        {
            "model": "default",
            "messages": [{"role": "user", "content": message(kind_of(load, n), n, tokens, seed)}],
            "max_tokens": new,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            **more,
        }
        for n in range(count)
    ]


class NoAnswer(RuntimeError):
    """No whole stream; `after_s`: when to come again, as the service says."""

    def __init__(self, status: bytes, after_s: float | None) -> None:
        super().__init__(f"no whole answer: {status!r}")
        self.after_s = after_s


async def ask(url: str, body: dict[str, Any], key: str | None = None) -> Asked:
    """Raises NoAnswer where the answer is no whole stream."""
    place = urlsplit(url)
    data = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\nConnection: close\r\n"
        + (f"Authorization: Bearer {key}\r\n\r\n" if key else "\r\n")
    )
    began, first, last = time.perf_counter(), 0.0, 0.0
    reader, writer = await asyncio.open_connection(place.hostname, place.port, limit=2**22)
    try:
        writer.write(head.encode() + data)
        status = await reader.readline()
        text, usage, after_s = "", None, None
        while line := await reader.readline():
            if line.lower().startswith(b"retry-after:"):
                after_s = float(line.split(b":")[1])
            if not line.startswith(b"data: {"):
                continue
            told = json.loads(line[6:])
            usage = told.get("usage") or usage
            piece = "".join((c.get("delta") or {}).get("content") or "" for c in told.get("choices", ()))
            if piece:
                last = time.perf_counter()
                first = first or last
                text += piece
    finally:
        writer.close()
    if b" 200 " not in status or not usage:
        raise NoAnswer(status, after_s)
    return Asked(first - began, last - began, usage["completion_tokens"], usage["prompt_tokens"], text)


async def users(url: str, wanted: list[dict[str, Any]], count: int) -> tuple[float, list[Asked]]:
    """`count` users until all of `wanted` is answered: seconds, and the answers in the order asked."""
    left, done = iter(enumerate(wanted)), {}

    async def user() -> None:
        for n, body in left:
            done[n] = await ask(url, body)

    began = time.perf_counter()
    await asyncio.gather(*(user() for _ in range(count)))
    return time.perf_counter() - began, [done[n] for n in sorted(done)]


def figures(wall_s: float, answers: list[Asked]) -> dict[str, float]:
    """Output tokens a second over the whole run, medians of TTFT and TPOT in seconds."""
    gaps = [(a.last_s - a.first_s) / (a.tokens - 1) for a in answers if a.tokens > 1]
    return {
        "output_tok_s": sum(a.tokens for a in answers) / wall_s,
        "ttft_s": statistics.median(a.first_s for a in answers),
        "tpot_s": statistics.median(gaps) if gaps else 0.0,
        "prompt_tokens": statistics.mean(a.prompt_tokens for a in answers),
        "wall_s": wall_s,
    }


def measure(url: str, load: str, count: int, requests: int, **more: Any) -> dict[str, float]:
    return figures(*asyncio.run(users(url, bodies(load, requests, **more), count)))
