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

from ....errors import Where, WrongUse
from ....lines import LineTooLong, each_line_soon
from ..engine_process import EngineRefused
from .replies import Card, Unreadable, cards_of, said_of, seconds_of
from .tries import Busy, Forbidden, Gone

LOOK_S = 2.0  # between two looks at a server
LOOK_LIMIT_S = 10.0  # for its answer to one; two without an answer in a row: it is out
CONNECT_S = 5.0
ERRORS, WITHIN_S, OUT_S = 5, 10.0, 5.0  # the breaker: so many errors in so long, then out for so long
LOOK_BYTES = 4 * 2**20  # of a list of models
LINE_BYTES = 8 * 2**20  # of one event
ANSWER_BYTES = 64 * 2**20  # of an answer that comes as a whole, and of a stream's text
ERROR_BYTES = 2**20  # of what comes with another status


class Server:
    """`state`: "loading" (not looked at yet), "ready", "stalled" (out) or "closed"."""

    pid: int | None = None  # on another machine, or not ours

    def __init__(self, url: str, key: str | None, silence_s: float, log: Callable[..., None]) -> None:
        self.url, self.log = url, log
        self.state = "loading"
        self.why = "it has not been looked at yet"
        self.models: list[str] = []
        self.contexts: dict[str, int] = {}  # tokens, of the models whose it says
        self.takes_salt = False
        self.active = 0
        self.looked_at = 0.0  # when it last answered a look
        self.errors: deque[float] = deque(maxlen=ERRORS)
        self.lost = asyncio.Event()  # set while it is out
        self.doubted = asyncio.Event()  # a look is wanted at once
        self._out_until = 0.0
        self._misses = 0
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
            async with asyncio.timeout(LOOK_LIMIT_S):
                status, content = await self._list()
            cards = cards_of(content) if status == 200 else []
        except httpx.ConnectError as e:
            return self._out(f"it cannot be reached ({_named(e)})")
        except (httpx.HTTPError, TimeoutError) as e:
            return self._missed(f"it does not answer ({_named(e)})")
        except ValueError:  # an Unreadable, no JSON, a name that no host can have
            return self._missed("it sends no list of models")
        if status in (401, 403):
            return self._out("it refuses our key")
        if not cards:
            return self._out(f"it lists no models (HTTP {status})")
        self._take(cards)

    async def _list(self) -> tuple[int, bytes]:
        async with self.client.stream("GET", "/v1/models") as answer:
            content = bytearray()
            async for part in answer.aiter_bytes():
                content += part
                if len(content) > LOOK_BYTES:
                    raise Unreadable(f"a list of more than {LOOK_BYTES >> 20} MiB")
            return answer.status_code, bytes(content)

    def _missed(self, why: str) -> None:
        """One look without an answer is forgiven to a server that is in."""
        self._misses += 1
        if self._misses > 1 or self.state == "loading":
            self._out(why)

    def _take(self, cards: list[Card]) -> None:
        self.models = [card.id for card in cards]
        self.contexts = {card.id: card.context for card in cards if card.context}
        self._note_salt(all(card.salted for card in cards))
        self._misses, self.looked_at = 0, time.monotonic()
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

    def failed(self, why: str, spared: bool) -> float:
        """One error more, and when; five within ten seconds take it out, unless it is `spared`."""
        now = time.monotonic()
        self.errors.append(now)
        if not spared and len(self.errors) == ERRORS and now - self.errors[0] < WITHIN_S:
            self._out_until = now + OUT_S
            self._out(why)
        return now

    def forgive(self, error: float) -> None:
        """It was the request's doing."""
        with suppress(ValueError):
            self.errors.remove(error)

    async def close(self) -> None:
        self.state = "closed"
        self.lost.set()
        await self.client.aclose()

    # ------------------------------------------------------------------ asking

    async def chunks(self, path: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The events of a streamed answer, to its [DONE] where one comes.

        Raises Gone, Busy, Forbidden, EngineRefused. What has not begun when the server goes out is Gone.
        """
        self.active += 1
        try:
            async with aclosing(self._events(path, body)) as events:
                event = await self._unless_lost(anext(events, None))
                while event is not None:
                    yield event
                    event = await anext(events, None)
        except (httpx.HTTPError, LineTooLong) as e:
            raise self._broken(e) from e
        finally:
            self.active -= 1

    def _broken(self, e: Exception) -> Gone:
        if isinstance(e, LineTooLong):
            return Gone(f"an event of more than {LINE_BYTES >> 20} MiB", "unreadable")
        if isinstance(e, httpx.ConnectError):  # nothing was asked of it: that is no request's doing
            self._out(f"it cannot be reached ({_named(e)})")
            return Gone(_named(e))
        return Gone(f"it broke off ({_named(e)})", "broke")

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
            async for line in each_line_soon(answer.aiter_bytes(), LINE_BYTES):
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
            raise Gone("an event is no JSON", "unreadable") from e
        if not isinstance(event, dict):
            raise Gone("an event is no object", "unreadable")
        if event.get("error"):
            raise Gone(said_of(event), "status")
        return event

    async def whole(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """An answer in one piece. Raises as `chunks` does."""
        self.active += 1
        try:
            document = orjson.loads(await self._unless_lost(self._answered(path, body)))
        except orjson.JSONDecodeError as e:
            raise Gone("its answer is no JSON", "unreadable") from e
        except httpx.HTTPError as e:
            raise self._broken(e) from e
        finally:
            self.active -= 1
        if not (isinstance(document, dict) and isinstance(document.get("data"), list)):
            raise Gone("its answer holds no list", "unreadable")
        return document

    async def _answered(self, path: str, body: dict[str, Any]) -> bytes:
        async with self.client.stream("POST", path, json=body) as answer:
            content = await self._body(answer)
            self._check(answer, content)
            return content

    async def _body(self, answer: httpx.Response) -> bytes:
        most = ANSWER_BYTES if answer.status_code == 200 else min(ANSWER_BYTES, ERROR_BYTES)
        content = bytearray()
        async for part in answer.aiter_bytes():
            content += part
            if len(content) > most:
                raise Gone(f"an answer of more than {most >> 20} MiB", "unreadable")
        return bytes(content)

    def _check(self, answer: httpx.Response, content: bytes) -> None:
        """Raises what the status means. What a server says of our key is never passed on."""
        status = answer.status_code
        if status == 200:
            return
        if status in (401, 403):
            self.doubted.set()  # it may be our key; only a look takes the server from all others
            raise Forbidden(status)
        if status in (429, 503):
            raise Busy(seconds_of(answer.headers.get("retry-after")))
        if status in (408, 499) or status >= 500:
            raise Gone(f"HTTP {status}", "status")
        with suppress(orjson.JSONDecodeError):
            raise EngineRefused(said_of(orjson.loads(content)))
        raise EngineRefused(f"the server refuses this request (HTTP {status})")


def _trusted(url: str) -> Any:
    """TLS is verified by the system's certificates, or those of SSL_CERT_FILE. Raises WrongUse."""
    if not url.startswith("https:"):
        return True
    try:
        return httpx.create_ssl_context()
    except OSError as e:  # also an ssl.SSLError
        raise WrongUse(
            "serve.join_ca", "the certificates that servers are verified by cannot be read",
            where=Where(field="SSL_CERT_FILE"), why=str(e), hint="a file of certificates in PEM",
        ) from e  # fmt: skip


def _named(e: Exception) -> str:
    return type(e).__name__
