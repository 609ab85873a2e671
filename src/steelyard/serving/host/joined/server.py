"""One OpenAI server that already runs: asked over HTTP, looked at, taken out and in again."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any

import httpx
import orjson

from ....lines import each_line_soon
from ..engine_process import EngineRefused

LOOK_S = 2.0  # between two looks at a server
LOOK_LIMIT_S = 10.0  # for its answer to one; two without an answer in a row: it is out
CONNECT_S = 5.0
ERRORS, WITHIN_S, OUT_S = 5, 10.0, 5.0  # the breaker: so many errors in so long, then out for so long
WORDS = 500  # characters of a server's own message that are passed on
# Of `owned_by` in a list of models: servers that keep a prompt of another `cache_salt` out of the way. Others
# ignore the word, or refuse a request that has it.
SALTED = ("vllm", "sglang", "steelyard")
ANSWER_BYTES = 64 * 2**20  # of an answer that comes as a whole


class Gone(Exception):
    """It cannot be reached, failed, or broke off: another may do it."""


class Busy(Exception):
    """It takes no more just now."""

    def __init__(self, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s


class Server:
    """`state`: "loading" (not looked at yet), "ready", "stalled" (out) or "closed"."""

    pid: int | None = None  # on another machine, or not ours

    def __init__(self, url: str, key: str | None, silence_s: float, log: Callable[..., None]) -> None:
        self.url, self.log = url, log
        self.state = "loading"
        self.why = "it has not been looked at yet"
        self.models: list[str] = []
        self.context: int | None = None  # tokens, where it says
        self.takes_salt = False
        self.active = 0
        self.looked_at = 0.0  # when it last answered a look
        self.errors: deque[float] = deque(maxlen=ERRORS)
        self.lost = asyncio.Event()  # set while it is out
        self._out_until = 0.0
        self._missed = 0
        # Nobody who asks the server without us may guess a salt; fronts with one key for it share its cache.
        self._salting = key.encode() if key else os.urandom(32)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Timeout(silence_s, connect=CONNECT_S, pool=None)
        self.client = httpx.AsyncClient(
            base_url=url, headers=headers, timeout=limits, trust_env=False, verify=_trusted(url),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        )  # fmt: skip

    # ------------------------------------------------------------------ looking

    async def look(self) -> None:
        """Its models, and whether it answers at all."""
        if time.monotonic() < self._out_until:
            return
        try:
            answer = await self.client.get("/v1/models", timeout=LOOK_LIMIT_S)
            cards = _cards(answer) if answer.status_code == 200 else []
        except httpx.ConnectError as e:
            return self._out(f"it cannot be reached ({_named(e)})")
        except (httpx.HTTPError, ValueError) as e:
            self._missed += 1
            return self._out(f"it does not answer ({_named(e)})") if self._missed > 1 else None
        if answer.status_code in (401, 403):
            return self._out("it refuses our key")
        if not cards:
            return self._out(f"it lists no models (HTTP {answer.status_code})")
        self.models = [card["id"] for card in cards]
        self.context = next((c["max_model_len"] for c in cards if c.get("max_model_len")), None)
        self._note_salt(all(card.get("owned_by") in SALTED for card in cards))
        self._missed, self.looked_at = 0, time.monotonic()
        self._in()

    def _note_salt(self, takes: bool) -> None:
        if self.state == "loading" or takes != self.takes_salt:
            self.log("join.prefix_cache", url=self.url, by_key=takes)
        self.takes_salt = takes

    def salt_of(self, salt: str) -> str | None:
        """`cache_salt` for whoever has this salt here; None where the server takes none.

        Hex, and no longer: vLLM allows 128 characters, and no "@" or "/".
        """
        if not self.takes_salt:
            return None
        return hmac.new(self._salting, salt.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()

    def _in(self) -> None:
        if self.state not in ("ready", "closed"):
            self.state = "ready"
            self.lost.clear()
            self.errors.clear()
            self.log("join.server_ready", url=self.url, models=self.models[:8])

    def _out(self, why: str) -> None:
        if self.state in ("ready", "loading") or self.why != why:
            self.log("join.server_out", url=self.url, why=why, under_way=self.active)
        if self.state != "closed":
            self.state, self.why = "stalled", why
            self.lost.set()

    def failed(self, why: str, at_once: bool = False) -> None:
        """One error more; five within ten seconds take it out."""
        now = time.monotonic()
        self.errors.append(now)
        if at_once or (len(self.errors) == ERRORS and now - self.errors[0] < WITHIN_S):
            self._out_until = now + (0.0 if at_once else OUT_S)
            self._out(why)

    async def close(self) -> None:
        self.state = "closed"
        self.lost.set()
        await self.client.aclose()

    # ------------------------------------------------------------------ asking

    async def chunks(self, path: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The events of a streamed answer, to its [DONE] where one comes.

        Raises Gone, Busy, EngineRefused. What has not begun when the server goes out is Gone.
        """
        self.active += 1
        try:
            async with aclosing(self._events(path, body)) as events:
                event = await self._unless_lost(anext(events, None))
                while event is not None:
                    yield event
                    event = await anext(events, None)
        except httpx.HTTPError as e:
            self.failed(f"it broke off ({_named(e)})", at_once=isinstance(e, httpx.ConnectError))
            raise Gone(_named(e)) from e
        finally:
            self.active -= 1

    async def _unless_lost(self, work: Coroutine[Any, Any, Any]) -> Any:
        asked, lost = asyncio.ensure_future(work), asyncio.ensure_future(self.lost.wait())
        try:
            await asyncio.wait({asked, lost}, return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                return asked.result()
            raise Gone(self.why)
        finally:
            for task in (asked, lost):
                task.cancel()
            await asyncio.gather(asked, lost, return_exceptions=True)

    async def _events(self, path: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        async with self.client.stream("POST", path, json=body) as answer:
            if answer.status_code != 200:
                self._check(answer, await self._body(answer))
            async for line in each_line_soon(answer.aiter_bytes()):
                data = line.strip()
                if not data.startswith(b"data:"):
                    continue
                data = data[5:].strip()
                if data == b"[DONE]":
                    return
                yield self._event(data)

    def _event(self, data: bytes) -> dict[str, Any]:
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError as e:
            self.failed("it sends no JSON")
            raise Gone("an event is no JSON") from e
        if not isinstance(event, dict) or event.get("error"):
            self.failed("it fails")
            raise Gone(_said(event))
        return event

    async def whole(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """An answer in one piece. Raises as `chunks` does."""
        self.active += 1
        try:
            document = orjson.loads(await self._unless_lost(self._answered(path, body)))
        except (httpx.HTTPError, orjson.JSONDecodeError) as e:
            self.failed(f"it broke off ({_named(e)})", at_once=isinstance(e, httpx.ConnectError))
            raise Gone(_named(e)) from e
        finally:
            self.active -= 1
        if not isinstance(document, dict):
            raise Gone("its answer is no object")
        return document

    async def _answered(self, path: str, body: dict[str, Any]) -> bytes:
        async with self.client.stream("POST", path, json=body) as answer:
            content = await self._body(answer)
            self._check(answer, content)
            return content

    async def _body(self, answer: httpx.Response) -> bytes:
        content = bytearray()
        async for part in answer.aiter_bytes():
            content += part
            if len(content) > ANSWER_BYTES:
                self.failed("it sends too much")
                raise Gone(f"an answer of more than {ANSWER_BYTES >> 20} MiB")
        return bytes(content)

    def _check(self, answer: httpx.Response, content: bytes) -> None:
        """Raises what the status means. What a server says of our key is never passed on."""
        status = answer.status_code
        if status == 200:
            return
        if status in (401, 403):
            self._out("it refuses our key")
            raise Gone("it refuses our key")
        if status in (429, 503):
            raise Busy(_seconds(answer.headers.get("retry-after")))
        if status in (408, 499) or status >= 500:
            self.failed(f"it fails (HTTP {status})")
            raise Gone(f"HTTP {status}")
        with suppress(orjson.JSONDecodeError):
            raise EngineRefused(_said(orjson.loads(content)))
        raise EngineRefused(f"the server refuses this request (HTTP {status})")


def _trusted(url: str) -> Any:
    """TLS is verified by the system's certificates, or those of SSL_CERT_FILE."""
    return httpx.create_ssl_context() if url.startswith("https:") else True


def _cards(answer: httpx.Response) -> list[dict[str, Any]]:
    """Raises ValueError."""
    document = orjson.loads(answer.content)
    listed = document.get("data") if isinstance(document, dict) else None
    cards = [card for card in listed or () if isinstance(card, dict) and isinstance(card.get("id"), str)]
    return [card for card in cards if card["id"]]


def _said(document: Any) -> str:
    """The message of an error in any of the shapes that servers give it."""
    error = document.get("error", document) if isinstance(document, dict) else None
    message = error.get("message") or error.get("detail") if isinstance(error, dict) else error
    return f"the server says: {str(message or 'nothing')[:WORDS]}"


def _named(e: Exception) -> str:
    return type(e).__name__


def _seconds(text: str | None) -> float:
    with suppress(TypeError, ValueError):
        return max(float(text or ""), 0.0)
    return 1.0
