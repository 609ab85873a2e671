"""An OpenAI-compatible server as the gate sees it: public routes, bounded concurrency, no insides.

Not here: what to ask (probes.py, scores.py) and what the answers mean (parity.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from ..errors import Lacking

T = TypeVar("T")
R = TypeVar("R")
Message = dict[str, str]
TIMEOUT_S = 120.0  # one answer behind a full batch on a slow machine
TRIES = 3  # a restart of the engine takes seconds; more would hide a server that is down
CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
AGAIN = {408, 429, 500, 502, 503, 504}


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One token of an answer as the server reports it."""

    text: str
    logprob: float
    raw: bytes | None = None
    top: tuple[tuple[str, float], ...] = ()
    id: int | None = None  # llama-server tells it


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One chat answer, or the reason why there is none (`error`)."""

    text: str | None
    finish: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    tokens: tuple[Token, ...] | None = None
    error: str | None = None
    tool_calls: tuple[dict[str, Any], ...] = ()


@dataclass(slots=True, kw_only=True)
class Endpoint:
    """`url` with or without `/v1`. Use as `async with Endpoint(url=...) as endpoint`."""

    url: str
    model: str | None = None
    key: str | None = None
    concurrency: int = 32
    logprobs: bool = True  # turned off once the server has refused them
    _client: httpx.AsyncClient | None = field(default=None, repr=False)

    @property
    def root(self) -> str:
        return self.url.rstrip("/").removesuffix("/v1")

    async def __aenter__(self) -> Endpoint:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        local = urlsplit(self.url).hostname in ("127.0.0.1", "localhost", "::1")
        limits = httpx.Limits(max_connections=self.concurrency)
        self._client = httpx.AsyncClient(
            base_url=self.root, headers=headers, timeout=TIMEOUT_S, limits=limits, trust_env=not local
        )
        self.model = self.model or await self._first_model()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    @property
    def _http(self) -> httpx.AsyncClient:
        if self._client is None:
            raise RuntimeError("Endpoint is used inside `async with`")
        return self._client

    async def _first_model(self) -> str:
        """The name the server lists first. Raises Lacking where nothing answers at the address."""
        try:
            found = await self._http.get("/v1/models")
        except httpx.HTTPError as e:
            raise Lacking(
                "gate.no_endpoint",
                f"nothing answers at {self.root}",
                why=type(e).__name__,
                hint="start the server, or check the address and the port",
            ) from e
        if found.status_code in (401, 403):
            raise Lacking(
                "gate.key_refused",
                f"{self.root} refuses the key",
                why=f"HTTP {found.status_code}",
                hint="set OPENAI_API_KEY",
            )
        try:
            return str(found.json()["data"][0]["id"])
        except (ValueError, LookupError, TypeError):
            return "default"

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
    ) -> Answer:
        """One answer; greedy unless told. `temperature=None` leaves the choice to the server."""
        body: dict[str, Any] = {"model": self.model, "messages": list(messages), "max_tokens": max_tokens}
        if temperature is not None:
            body["temperature"] = temperature
        if seed is not None:
            body["seed"] = seed
        if tools:
            body["tools"] = list(tools)
        if logprobs and self.logprobs:
            body |= {"logprobs": True, **({"top_logprobs": top} if top else {})}
        answer = await self._post(CHAT, body)
        if answer.error and answer.error.startswith("HTTP 4") and "logprobs" in body:
            plain = {k: v for k, v in body.items() if k not in ("logprobs", "top_logprobs")}
            answer = await self._post(CHAT, plain)
            self.logprobs = self.logprobs and answer.error is not None
        return answer

    async def complete(self, prompt: Sequence[int], max_tokens: int, *, seed: int) -> Answer:
        """Text that follows these token ids, drawn at temperature 1, with log-probabilities."""
        body = {"model": self.model, "prompt": list(prompt), "max_tokens": max_tokens, "logprobs": 1}
        return await self._post(COMPLETE, body | {"temperature": 1.0, "top_p": 1.0, "seed": seed})

    async def _post(self, path: str, body: dict[str, Any]) -> Answer:
        error = "no answer"
        for attempt in range(TRIES):
            try:
                reply = await self._http.post(path, json=body)
                if reply.status_code == 200:
                    return read_answer(reply.json())
                error = f"HTTP {reply.status_code}"
                if reply.status_code not in AGAIN:
                    break
            except (httpx.HTTPError, ValueError) as e:
                error = type(e).__name__
            if attempt + 1 < TRIES:
                await asyncio.sleep(0.5 * 2**attempt)
        return Answer(text=None, error=error)

    async def tokenize(self, messages: Sequence[Message]) -> list[int] | None:
        """Ids of the rendered prompt as the server makes them; None where it does not show them.

        vLLM and our server take messages; llama-server renders at one route and encodes at another.
        """
        body = {"model": self.model, "messages": list(messages), "add_generation_prompt": True}
        found = await self._json("/tokenize", body)
        if found is not None and _ints(found.get("tokens")):
            return _ints(found["tokens"])
        rendered = await self._json("/apply-template", {"messages": list(messages)})
        if rendered is None or not isinstance(rendered.get("prompt"), str):
            return None
        text = {"content": rendered["prompt"], "add_special": True, "parse_special": True}
        found = await self._json("/tokenize", text)
        return (_ints(found.get("tokens")) or None) if found else None

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


def read_answer(document: Any) -> Answer:
    """An Answer from a completion, of a chat or not; a shape that is none becomes an error, not a crash."""
    try:
        choice, usage = document["choices"][0], document.get("usage") or {}
        text = choice["message"].get("content") if "message" in choice else choice["text"]
        calls = tuple((choice.get("message") or {}).get("tool_calls") or ())
        if not isinstance(text, str) and not calls:
            return Answer(text=None, error="no content")
        return Answer(
            text=text or "",
            tool_calls=calls,
            finish=choice.get("finish_reason"),
            prompt_tokens=usage.get("prompt_tokens"),
            completion_tokens=usage.get("completion_tokens"),
            tokens=_tokens(choice.get("logprobs") or {}),
        )
    except (LookupError, TypeError, AttributeError, ValueError):
        return Answer(text=None, error="not a completion")


def _tokens(told: Any) -> tuple[Token, ...] | None:
    """Of a chat's shape (`content`) or of the older completions' (`tokens`, `token_logprobs`)."""
    if told.get("content"):
        return tuple(map(_token, told["content"]))
    texts, values = told.get("tokens") or (), told.get("token_logprobs") or ()
    pairs = [(t, p) for t, p in zip(texts, values, strict=False) if p is not None]
    return tuple(Token(text=t, logprob=float(p)) for t, p in pairs) or None


def _token(told: Any) -> Token:
    return Token(
        text=told["token"],
        logprob=float(told["logprob"]),
        raw=bytes(told["bytes"]) if told.get("bytes") is not None else None,
        top=tuple((x["token"], float(x["logprob"])) for x in told.get("top_logprobs") or ()),
        id=told["id"] if isinstance(told.get("id"), int) else None,
    )


def _ints(value: Any) -> list[int]:
    found = value if isinstance(value, list) else []
    return found if all(isinstance(i, int) for i in found) else []
