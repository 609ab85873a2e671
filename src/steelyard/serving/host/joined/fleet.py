"""Several joined servers as if they were one engine: which is asked, and what happens when one goes.

A request goes where it costs the fewest tokens (balance.py), among those that are in and have its model. One
of which nothing has been made goes to another when its server goes; one that has begun ends with an error.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any

import orjson

from ....errors import Lacking
from ...engines import Capability, EngineSettings, Event, Scores
from ..engine_process import EngineCrashed, EngineEnding, EngineLost, EngineRefused
from ..replicas import Balance, Load, blocks_of
from .keys import VARIABLE
from .server import LOOK_S, Busy, Gone, Server
from .texts import Texts

CHAT, TEXT, VECTORS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
CONTEXT = 1 << 20  # tokens, where no server says its own
BUSY_TRIES, BUSY_MOST_S = 30, 5.0
FINISH = {"length": "length"}  # all others end as "stop": the call that was made says more
FAST = Capability(
    continuous=True, prefix_cache=True, prompt_logprobs=False, gen_logprobs=False, top_logprobs=True,
    grammar=("json_schema",), logit_bias=True, min_tokens=True, lora="none", mixed_adapters=True,
    speculative=(), embed=False, forms=(), kv_forms=(),
)  # fmt: skip


class Fleet:
    """The methods of an engine process, over servers that run already."""

    capability = FAST
    pid: int | None = None
    pids: Sequence[int] = ()
    stopped = False

    def __init__(
        self, keys: dict[str, str | None], slots: int, silence_s: float, log: Callable[..., None]
    ) -> None:
        """`keys`: server -> the key that it is asked by; `slots`: requests that one server has at once."""
        self.engines = [Server(url, key, silence_s, log) for url, key in keys.items()]
        self.each, self.log = slots, log
        self.balance = Balance(len(self.engines))
        self.texts = Texts()
        self.load: dict[str, float] = {}
        self.metrics: dict[str, float] = {}
        self.restarts = 0
        self.main: str | None = None  # the model that `default` names
        self._ending: str | None = None
        self._ends: asyncio.Future[None] | None = None  # done once all answers are to end
        self._changed = asyncio.Event()
        self._looking: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Raises Lacking where none of them answers."""
        began = time.monotonic()
        self._ends = asyncio.get_running_loop().create_future()
        first = asyncio.gather(*(server.look() for server in self.engines))
        await first
        if not self._ready():
            whys = "; ".join(f"{server.url}: {server.why}" for server in self.engines)
            raise Lacking(
                "serve.join_none", "none of the joined servers answers", why=whys,
                hint=f"do they run? Keys go by --join-key FILE or {VARIABLE}",
            )  # fmt: skip
        self.main = self._main()
        self.load = {"load_s": time.monotonic() - began}
        self._looking = [asyncio.create_task(self._look(i)) for i in range(len(self.engines))]

    def _main(self) -> str:
        """The first model of the first server that is in: `default` means it, wherever it is served."""
        first = next(server for server in self.engines if server.state == "ready")
        for server in self.engines:
            if server.state == "ready" and first.models[0] not in server.models:
                self.log(
                    "join.other_model", url=server.url, models=server.models[:8], default=first.models[0]
                )
        return first.models[0]

    async def _look(self, number: int) -> None:
        server = self.engines[number]
        while server.state != "closed":
            before = server.state
            try:
                await server.look()
            except Exception as e:  # whatever it is, the next look may do; this loop must not end
                self.log("join.not_looked_at", url=server.url, why=repr(e))
            if before == "stalled" and server.state == "ready":
                self.restarts += 1
                self.balance.forget(number)
            self._changed.set()
            self._changed = asyncio.Event()
            await asyncio.sleep(LOOK_S)

    # ------------------------------------------------------------------ as one

    @property
    def settings(self) -> EngineSettings:
        """No limit of tokens stands here: they are counted roughly, and the server knows its own."""
        return EngineSettings(
            folder="", engine="joined", platform="joined", max_num_seqs=self.each, max_model_len=CONTEXT
        )

    def context_of(self, name: str) -> int:
        """The least that a server of this model tells."""
        model = name if name in self.adapters else self.main
        told = [s.context for s in self.engines if s.context and model in s.models]
        return min(told, default=CONTEXT)

    @property
    def state(self) -> str:
        if all(server.state == "closed" for server in self.engines):
            return "closed"
        return "ready" if self._ready() else "stalled"

    def _ready(self) -> list[int]:
        return [i for i, server in enumerate(self.engines) if server.state == "ready"]

    @property
    def last_token_at(self) -> float:
        """A look that was answered: a token would be asked of somebody else's machine."""
        return max((self.engines[i].looked_at for i in self._ready()), default=0.0)

    @property
    def active(self) -> int:
        return sum(server.active for server in self.engines)

    @property
    def slots(self) -> int:
        return self.each * max(len(self._ready()), 1)

    @property
    def models(self) -> list[str]:
        """Each once, in the order of the servers; those of one that is out too, since it may come back."""
        return list(dict.fromkeys(name for server in self.engines for name in server.models))

    @property
    def adapters(self) -> dict[str, str]:
        """Models that a request may name beside `default`."""
        return dict.fromkeys(self.models, "")

    async def until_ready(self, limit_s: float) -> bool:
        end = time.monotonic() + limit_s
        while not self._ready() and self.state != "closed" and (left := end - time.monotonic()) > 0:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(left, LOOK_S))
        return bool(self._ready())

    # ------------------------------------------------------------------ asking

    async def submit(
        self,
        request: dict[str, Any],
        ended: Callable[[bool], None] = lambda begun: None,
        generated: Callable[[int, int], None] = lambda prompt, ids: None,
    ) -> AsyncGenerator[Event, None]:
        """As EngineProcess.submit. `request["asked"]` is what the body holds beside the sampling."""
        ids = request["ids"]
        blocks = blocks_of(ids, (request.get("adapter"), request.get("salt", "")))
        begun = over = False
        try:
            async with aclosing(self._placed(request, ids, blocks)) as events:
                async for event in events:
                    generated(0 if begun else len(ids), len(event.ids))
                    begun = True
                    yield event
            over = True
        except EngineLost:
            raise
        except BaseException:
            over = True
            raise
        finally:
            if over:
                ended(begun)

    async def _placed(
        self, request: dict[str, Any], ids: list[int], blocks: list[int]
    ) -> AsyncGenerator[Event, None]:
        """At one server after another, until one has begun. Raises EngineLost."""
        tried: set[int] = set()
        waited, busy = 0, 0.0
        while True:
            number = self._choose(request.get("adapter"), len(ids), blocks, tried)
            if number is None and busy and waited < BUSY_TRIES:
                await asyncio.sleep(min(busy, BUSY_MOST_S))
                waited, busy = waited + 1, 0.0
                tried.clear()
                continue
            if number is None:
                raise EngineCrashed(self._nobody(request.get("adapter")))
            begun = False
            load = self.balance.take(number, len(ids), blocks, request["max_tokens"])
            try:
                async with aclosing(self._asked(self.engines[number], request, load)) as events:
                    async for event in events:
                        begun = True
                        if event.finish:
                            self.balance.ended(load)
                        yield event
                return
            except Busy as e:
                busy = max(e.retry_after_s, 0.1)
            except Gone as e:
                url = self.engines[number].url
                self.log("join.request_moved" if not begun else "join.stream_lost", url=url, why=str(e))
                if begun:
                    raise EngineCrashed(f"the server that made this answer went away: {e}") from e
            finally:
                load.leave()
            tried.add(number)

    def _choose(self, model: str | None, tokens: int, blocks: list[int], tried: set[int]) -> int | None:
        if self._ending:
            raise EngineEnding(self._ending)
        wanted = model or self.main
        able = [i for i in self._ready() if i not in tried and wanted in self.engines[i].models]
        return self.balance.choose(able, tokens, blocks) if able else None

    def _nobody(self, model: str | None) -> str:
        return f"no joined server answers for the model {model or self.main!r} now"

    async def _asked(
        self, server: Server, request: dict[str, Any], load: Load
    ) -> AsyncGenerator[Event, None]:
        """Events of one answer; the last one, with the finish, comes with the server's own usage.

        Of a cache that all keys share nobody is told what was found there.
        """
        path, body = body_of(request, request.get("adapter") or self.main or "")
        if salt := server.salt_of(request.get("salt", "")):
            body["cache_salt"] = salt
        tells = salt is not None or request.get("alone", False)
        finish, last = None, Event(0, [])
        async with aclosing(server.chunks(path, body)) as chunks:
            while (chunk := await self._unless_ending(anext(chunks, None))) is not None:
                event = self._event(chunk)
                finish = event.finish or finish
                last.usage = event.usage or last.usage
                last.cached = (event.cached or last.cached) if tells else None
                if event.ids:
                    load.progress(len(request["ids"]), len(event.ids))
                    yield Event(0, event.ids)
        if finish is None:
            raise Gone("the answer has no end")
        last.finish = finish
        yield last

    async def _unless_ending(self, work: Any) -> Any:
        assert self._ends is not None
        asked = asyncio.ensure_future(work)
        try:
            await asyncio.wait({asked, self._ends}, return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                return asked.result()
            raise EngineEnding(self._ending or "")
        finally:
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)

    def _event(self, chunk: dict[str, Any]) -> Event:
        event = Event(0, [])
        for choice in (chunk.get("choices") or ())[:1]:
            delta = choice.get("delta")
            event.ids = self.texts.ids_of({"content": choice.get("text")} if delta is None else delta)
            if finish := choice.get("finish_reason"):
                event.finish = FINISH.get(finish, "stop")
        event.usage, event.cached = usage_of(chunk.get("usage"))
        return event

    async def vectors(self, body: dict[str, Any], model: str | None, salt: str = "") -> dict[str, Any]:
        """An answer of /v1/embeddings as the server gives it. Raises EngineLost."""
        wanted, tried = model or self.main, set[int]()
        while True:
            able = [i for i in self._ready() if i not in tried and wanted in self.engines[i].models]
            if not able:
                raise EngineLost(self._nobody(model))
            number = min(able, key=lambda i: self.engines[i].active)
            try:
                salted = self.engines[number].salt_of(salt)
                more = {"model": wanted} | ({"cache_salt": salted} if salted else {})
                return await self.engines[number].whole(VECTORS, {**body, **more})
            except (Gone, Busy):
                tried.add(number)

    async def score(self, ids: list[int], top: int) -> Scores:
        raise EngineRefused("joined servers score no prompts")

    async def embed(self, batch: list[list[int]]) -> list[list[float]]:
        raise EngineRefused("joined servers take texts, no ids")

    async def load_adapter(self, name: str, folder: str) -> None:
        raise EngineRefused("joined servers load no adapters from here")

    async def drop_adapter(self, name: str) -> None:
        raise EngineRefused("joined servers load no adapters from here")

    async def forget_grammars(self) -> None:
        """There are none here."""

    def move(self, folder: str) -> None:
        """There is no folder."""

    def end_all(self, why: str) -> None:
        self._ending = why
        if self._ends and not self._ends.done():
            self._ends.set_result(None)

    async def close(self) -> None:
        for task in self._looking:
            task.cancel()
        await asyncio.gather(*(server.close() for server in self.engines))


def body_of(request: dict[str, Any], model: str) -> tuple[str, dict[str, Any]]:
    """The path and the body of one answer: what the client gave, and nothing more."""
    asked = request.get("asked") or {"messages": [{"role": "user", "content": "."}]}
    body = {**(request.get("given") or {}), **asked, "model": model, "stream": True}
    body["stream_options"] = {"include_usage": True}
    if request["max_tokens"] < CONTEXT // 2:  # else nobody named one: the server's own room is the limit
        body["max_tokens"] = request["max_tokens"]
    if request.get("grammar"):
        body["response_format"] = _format(request["grammar"])
    return TEXT if "prompt" in body else CHAT, body


def _format(grammar: tuple[str, str]) -> dict[str, Any]:
    schema = orjson.loads(grammar[1])
    if schema == {"type": "object"}:
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def usage_of(usage: Any) -> tuple[tuple[int, int] | None, int | None]:
    """(Prompt and completion tokens), and those of the prompt that the server had in its cache."""
    if not isinstance(usage, dict):
        return None, None
    prompt, made = usage.get("prompt_tokens"), usage.get("completion_tokens", 0)
    if not (isinstance(prompt, int) and isinstance(made, int) and min(prompt, made) >= 0):
        return None, None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return (prompt, made), cached if isinstance(cached, int) else None
