"""An OpenAI-compatible server as the gate sees it: public routes, bounded concurrency, no insides.

Not here: what to ask (parity/probes.py, quality/scores.py), how answers are read (answers.py), what they
mean (parity/checks.py).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from ...errors import Lacking
from ...trust import trusting
from .answers import DIALECTS, Answer, Token, events, read_answer

__all__ = ["CHAT", "COMPLETE", "MESSAGES", "RESPONSES", "Answer", "Endpoint", "Token", "read_answer"]

T = TypeVar("T")
R = TypeVar("R")
Message = Mapping[str, Any]
TIMEOUT_S = 120.0  # one answer behind a full batch; longer, and the server is asked whether it is well
PATIENCE_S = 3600.0  # with one that is: a large model on a small CPU, or a queue that says when to come again
WELL = ("/live", "/health")  # ours while its engine is busy; vLLM's and llama-server's
TRIES = 3  # a restart of the engine takes seconds; more would hide a server that is down
CHAT, COMPLETE, RESPONSES, MESSAGES = DIALECTS
AGAIN = {408, 429, 500, 502, 503, 504}
END_OF_LINE = re.compile(r"\r\n|\n|\r")
ABSENT = ("HTTP 404", "HTTP 405", "HTTP 501")
# Servers that are known to keep what a request asks for, or to refuse it in words.
KEEPS_REQUESTS = ("steelyard", "vllm", "llamacpp")
# llama.cpp draws with top-k 40, top-p 0.95 and min-p 0.05 unless a request says otherwise.
NEUTRAL = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One entry of /v1/models."""

    id: str
    owner: str | None = None
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


@dataclass(slots=True, kw_only=True)
class Endpoint:
    """`url` with or without `/v1`. Use as `async with Endpoint(url=...) as endpoint`."""

    url: str
    model: str | None = None
    key: str | None = None
    concurrency: int = 32
    logprobs: bool = True  # turned off once the server has refused them
    cards: tuple[Card, ...] = ()
    # Every chat that was answered, with its count of prompt tokens; tools make it another prompt.
    counted: list[tuple[tuple[Message, ...], int]] = field(default_factory=list, repr=False)
    _client: httpx.AsyncClient | None = field(default=None, repr=False)

    @property
    def root(self) -> str:
        return self.url.rstrip("/").removesuffix("/v1")

    @property
    def card(self) -> Card:
        """Of the model that is asked."""
        own = (c for c in self.cards if c.id == self.model)
        return next(own, Card(id=self.model or "default"))

    @property
    def keeps_requests(self) -> bool:
        """A field of a request is kept or refused, never passed over in silence."""
        return self.card.owner in KEEPS_REQUESTS

    async def __aenter__(self) -> Endpoint:
        headers = {"Authorization": f"Bearer {self.key}", "x-api-key": self.key} if self.key else {}
        local = urlsplit(self.url).hostname in ("127.0.0.1", "localhost", "::1")
        limits = httpx.Limits(max_connections=self.concurrency + 1)  # one to ask whether it is well
        patient = httpx.Timeout(TIMEOUT_S, read=PATIENCE_S)
        self._client = httpx.AsyncClient(
            base_url=self.root, headers=headers, timeout=patient, limits=limits, trust_env=not local,
            verify=trusting(self.root),
        )  # fmt: skip
        self.cards = await self._models()
        self.model = self.model or next((c.id for c in self.cards), "default")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    @property
    def _http(self) -> httpx.AsyncClient:
        if self._client is None:
            raise RuntimeError("Endpoint is used inside `async with`")
        return self._client

    async def _models(self) -> tuple[Card, ...]:
        """What the server lists. Raises Lacking where nothing answers at the address."""
        try:
            reply = await self._http.get("/v1/models", timeout=TIMEOUT_S)
        except httpx.HTTPError as e:
            raise Lacking(
                "gate.no_endpoint",
                f"nothing answers at {self.root}",
                why=type(e).__name__,
                hint="start the server, or check the address and the port",
            ) from e
        if reply.status_code in (401, 403):
            raise Lacking(
                "gate.key_refused",
                f"{self.root} refuses the key",
                why=f"HTTP {reply.status_code}",
                hint="set OPENAI_API_KEY",
            )
        try:
            return tuple(_card(entry) for entry in reply.json()["data"])
        except (ValueError, LookupError, TypeError, AttributeError):
            return ()

    async def chat(
        self,
        messages: Sequence[Message],
        max_tokens: int,
        *,
        temperature: float | None = 0.0,
        seed: int | None = None,
        logprobs: bool = False,
        top: int = 0,
        tools: Sequence[Any] = (),
        stream: bool = False,
        more: Mapping[str, Any] | None = None,
    ) -> Answer:
        """One answer; greedy by default. `temperature=None` leaves the choice to the server."""
        body: dict[str, Any] = {"model": self.model, "messages": list(messages), "max_tokens": max_tokens}
        if temperature is not None:
            body["temperature"] = temperature
        if seed is not None:
            body["seed"] = seed
        if tools:
            body["tools"] = list(tools)
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        body |= more or {}
        if logprobs and self.logprobs:
            body |= {"logprobs": True, **({"top_logprobs": top} if top else {})}
        answer = await self._post(CHAT, body)
        if answer.error and answer.error.startswith("HTTP 4") and "logprobs" in body:
            plain = {k: v for k, v in body.items() if k not in ("logprobs", "top_logprobs")}
            answer = await self._post(CHAT, plain)
            self.logprobs = self.logprobs and answer.error is not None
        if answer.prompt_tokens is not None and not (more or tools):
            self.counted.append((tuple(messages), answer.prompt_tokens))
        return answer

    async def complete(self, prompt: Sequence[int], max_tokens: int, *, seed: int) -> Answer:
        """Text that follows these token ids, drawn at temperature 1, with log-probabilities."""
        body = {"model": self.model, "prompt": list(prompt), "max_tokens": max_tokens, "logprobs": 1}
        return await self._post(COMPLETE, body | {"temperature": 1.0, "top_p": 1.0, "seed": seed})

    async def post(self, path: str, body: Mapping[str, Any]) -> Answer:
        """One answer of any generating route, in its own dialect."""
        return await self._post(path, {"model": self.model, **body})

    async def _post(self, path: str, body: dict[str, Any]) -> Answer:
        """A 429 that says when to come again is no failure: a slow service has a queue."""
        end = time.monotonic() + PATIENCE_S
        error, tries = "no answer", 0
        while True:
            after_s: float | None = None
            try:
                reply = await self._patiently(self._http.post(path, json=body))
                if reply.status_code == 200:
                    return _read(path, body, reply)
                error, after_s = f"HTTP {reply.status_code}", _after_s(reply)
                if reply.status_code not in AGAIN:
                    break
            except (httpx.HTTPError, ValueError) as e:
                error = type(e).__name__
            tries += after_s is None
            if tries == TRIES or time.monotonic() + (after_s or 0.0) > end:
                break
            await asyncio.sleep(0.5 * 2 ** (tries - 1) if after_s is None else after_s)
        return Answer(text=None, error=error)

    async def _patiently(self, asked: Coroutine[Any, Any, httpx.Response]) -> httpx.Response:
        """Its reply, however late, while the server says that it is well. Raises httpx.HTTPError."""
        task = asyncio.ensure_future(asked)
        try:
            while not (await asyncio.wait({task}, timeout=TIMEOUT_S))[0]:
                if not await self._is_well():
                    raise httpx.ReadTimeout("no answer, and no word that it is well")
            return task.result()
        finally:
            task.cancel()

    async def _is_well(self) -> bool:
        for path in WELL:
            with suppress(httpx.HTTPError):
                if (await self._http.get(path, timeout=TIMEOUT_S)).status_code == 200:
                    return True
        return False

    async def tokenize(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[int] | None:
        """Ids of the rendered prompt as the server makes them; None where it does not show them.

        vLLM and our server take messages; llama-server renders at one route and encodes at another.
        """
        more = {"tools": list(tools)} if tools else {}
        chat = {"messages": list(messages), **more}
        document = await self._json("/tokenize", {"model": self.model, "add_generation_prompt": True, **chat})
        if document is not None and _ints(document.get("tokens")):
            return _ints(document["tokens"])
        rendered = await self._json("/apply-template", chat)
        if rendered is None or not isinstance(rendered.get("prompt"), str):
            return None
        text = {"content": rendered["prompt"], "add_special": True, "parse_special": True}
        document = await self._json("/tokenize", text)
        return (_ints(document.get("tokens")) or None) if document else None

    async def _json(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        try:
            reply = await self._http.post(path, json=body)
            document = reply.json() if reply.status_code == 200 else None
        except (httpx.HTTPError, ValueError):
            return None
        return document if isinstance(document, dict) else None

    async def each(self, items: Iterable[T], ask: Callable[[T], Awaitable[R]]) -> list[R]:
        """`ask` of every item, at most `concurrency` at once, results in the items' order."""
        gate = asyncio.Semaphore(self.concurrency)

        async def one(item: T) -> R:
            async with gate:
                return await ask(item)

        return list(await asyncio.gather(*map(one, items)))


def _card(entry: Mapping[str, Any]) -> Card:
    length = entry.get("max_model_len") or (entry.get("meta") or {}).get("n_ctx")  # llama-server's place
    return Card(
        id=str(entry["id"]),
        owner=entry.get("owned_by"),
        root=entry.get("root"),
        parent=entry.get("parent"),
        max_model_len=length if isinstance(length, int) and length > 0 else None,
    )


def _ints(value: Any) -> list[int]:
    listed = value if isinstance(value, list) else []
    return listed if all(isinstance(i, int) for i in listed) else []


def _read(path: str, body: Mapping[str, Any], reply: httpx.Response) -> Answer:
    """Raises ValueError for what is no JSON. A stream that comes as one document is no stream."""
    dialect = DIALECTS[path]
    if not body.get("stream"):
        return dialect.read(reply.json())
    lines = END_OF_LINE.split(reply.text)  # httpx ends lines at U+2028 too, which JSON may hold
    if not any(line.startswith("data:") for line in lines):
        return Answer(text=None, error="HTTP 501: no stream")
    return dialect.read(dialect.join(events(lines)))


def _after_s(reply: httpx.Response) -> float | None:
    """When to come again, where the server has too much to do and says so in seconds."""
    told = reply.headers.get("retry-after", "")
    return float(told) if reply.status_code == 429 and told.isdecimal() else None
