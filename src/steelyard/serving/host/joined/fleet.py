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
from ...base.errors import ApiError
from ...engines import Capability, EngineSettings, Event, Scores
from ..engine_process import READY_S, EngineCrashed, EngineEnding, EngineLost, EngineRefused
from ..replicas import Balance, Load, blocks_of
from .keys import VARIABLE
from .replies import CONTEXT, Unreadable, chunk_of, usage_of
from .server import ANSWER_BYTES, LOOK_S, OUT_S, Server
from .texts import BYTES, Texts
from .tries import Busy, Forbidden, Gone, Tries

CHAT, TEXT, VECTORS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
BUSY_TRIES, BUSY_MOST_S = 30, 5.0  # a full server is asked so often, after what it says but at most so long
LOOK_AGAIN_S = 0.5  # between two looks that doubts have asked for
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
        self.more_room: Callable[[], None] = lambda: None  # told that `slots` has grown
        self._away = 0  # requests that wait for a server of their model to come back

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
            server.doubted.clear()
            try:
                await server.look()
            except Exception as e:  # whatever it is, the next look may do; this loop must not end
                self.log("join.not_looked_at", url=server.url, why=repr(e))
            if before == "stalled" and server.state == "ready":
                self.restarts += 1
                self.balance.forget(number)
            self._changed.set()
            self._changed = asyncio.Event()
            if before != server.state:
                self.more_room()
            await asyncio.sleep(LOOK_AGAIN_S)
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(server.doubted.wait(), LOOK_S - LOOK_AGAIN_S)

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
        told = [server.contexts[model] for server in self.engines if model in server.contexts]
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
        """Who waits for a server to come back takes no place with those that are there."""
        ready = len(self._ready())
        return self.each * max(ready, 1) + (self._away if ready else 0)

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
            await self._next_look(min(left, LOOK_S))
        return bool(self._ready())

    async def _next_look(self, limit_s: float) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._changed.wait(), limit_s)

    # ------------------------------------------------------------------ asking

    async def submit(
        self,
        request: dict[str, Any],
        ended: Callable[[bool], None] = lambda begun: None,
        generated: Callable[[int, int], None] = lambda prompt, ids: None,
    ) -> AsyncGenerator[Event, None]:
        """As EngineProcess.submit. `request["asked"]` is what the body holds beside the sampling.

        Waits for a server that is full or away. Raises ApiError 403, 429, 503, EngineRefused; EngineCrashed
        only where an answer that had begun was lost. What servers made of this request stands in it
        (`tries`), so that another attempt asks none of them the same again.
        """
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
        except (EngineLost, ApiError):
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
        """At one server after another, until one has begun."""
        tries: Tries = request.setdefault("tries", Tries())
        while True:
            able = await self._able(request.get("adapter") or self.main, tries)
            number = self.balance.choose(able, len(ids), blocks)
            begun = False
            load = self.balance.take(number, len(ids), blocks, request["max_tokens"])
            try:
                async with aclosing(self._asked(self.engines[number], request, load)) as events:
                    async for event in events:
                        if not begun:
                            begun = True
                            self._judge(tries)
                        if event.finish:
                            self.balance.ended(load)
                        yield event
                return
            except (Busy, Forbidden, Gone) as e:
                self._note(tries, number, e, begun)
                if begun:
                    self._judge(tries)
                    raise EngineCrashed(_lost(e)) from e
            finally:
                load.leave()

    async def _able(self, model: str | None, tries: Tries) -> list[int]:
        """The servers that may be asked now; waits until there is one. Raises ApiError, EngineEnding."""
        while True:
            if self._ending:
                raise EngineEnding(self._ending)
            of_model = [i for i, server in enumerate(self.engines) if model in server.models]
            left = [i for i in of_model if tries.may_ask(i, alone=len(of_model) == 1)]
            ready = [i for i in left if self.engines[i].state == "ready"]
            now = time.monotonic()
            if able := [i for i in ready if tries.busy_until.get(i, now) <= now]:
                return able
            if tries.refused and not (ready if tries.hopeless else left):
                self._judge(tries)
                raise _refused_by_all(tries)
            if ready:
                await self._until_free(min(tries.busy_until[i] for i in ready) - now, tries)
            else:
                await self._until_back(model, tries)

    async def _until_free(self, seconds: float, tries: Tries) -> None:
        """Raises ApiError 429 once the servers were full for long."""
        if tries.rounds >= BUSY_TRIES:
            message = "the joined servers take no more requests just now"
            raise ApiError(429, message, code="servers_busy", retry_after=tries.busy_s)
        tries.rounds += 1
        await self._unless_ending(asyncio.sleep(seconds))

    async def _until_back(self, model: str | None, tries: Tries) -> None:
        """Until the next look may have brought one back.

        Raises ApiError 503 where none comes in time, or as many wait as a server takes.
        """
        many = self._away >= self.each and self._ready()
        if many or tries.waited_s >= READY_S or self.state == "closed":
            message = f"no joined server answers for the model {model!r} now"
            raise ApiError(503, message, code="engine_unavailable", retry_after=OUT_S)
        began = time.monotonic()
        self._away += 1
        try:
            self.more_room()
            await self._unless_ending(self._next_look(min(READY_S - tries.waited_s, LOOK_S)))
        finally:
            self._away -= 1
            tries.waited_s += time.monotonic() - began

    def _note(self, tries: Tries, number: int, e: Exception, begun: bool) -> None:
        url = self.engines[number].url
        if isinstance(e, Busy):
            tries.busy_s = e.retry_after_s
            tries.busy_until[number] = time.monotonic() + min(max(e.retry_after_s, 0.1), BUSY_MOST_S)
            return
        if isinstance(e, Forbidden):
            tries.forbidden[number] = e.status
            self.log("join.request_refused", url=url, status=e.status)
        elif isinstance(e, Gone):
            tries.failed_by(number, e)
            self.log("join.stream_lost" if begun else "join.request_moved", url=url, why=str(e))

    def _judge(self, tries: Tries) -> None:
        """A request is over, or has begun elsewhere: the breakers hear of what was not its own doing."""
        for number in tries.to_forgive():
            self.engines[number].forgive(tries.counted[number])
        for number in tries.to_count():
            server, why = self.engines[number], tries.failed[number].why
            tries.counted[number] = server.failed(why, spared=self._is_last(number))

    def _is_last(self, number: int) -> bool:
        """Whether one of its models has no other server now: an answer now and then is better than none."""
        others = {name for i in self._ready() if i != number for name in self.engines[i].models}
        return not others.issuperset(self.engines[number].models)

    async def _asked(
        self, server: Server, request: dict[str, Any], load: Load
    ) -> AsyncGenerator[Event, None]:
        """Events of one answer; the last one, with the finish, comes with the server's own usage.

        Of a cache that all keys share nobody is told what was found there.
        """
        model = request.get("adapter") or self.main or ""
        path, body = body_of(request, model)
        if salt := server.salt_of(request.get("salt", "")):
            body["cache_salt"] = salt
        tells = salt is not None or request.get("alone", False)
        finish, last, made = None, Event(0, []), 0
        most = max(server.contexts.get(model, CONTEXT), BYTES * len(request["ids"]))
        async with aclosing(server.chunks(path, body)) as chunks:
            while (chunk := await self._unless_ending(anext(chunks, None))) is not None:
                event = self._event(chunk, most)
                finish = event.finish or finish
                last.usage = event.usage or last.usage
                last.cached = (event.cached or last.cached) if tells else None
                if event.ids:
                    made += len(event.ids)
                    if made > ANSWER_BYTES // BYTES:
                        raise Gone(f"an answer of more than {ANSWER_BYTES >> 20} MiB", "unreadable")
                    load.progress(len(request["ids"]), len(event.ids))
                    yield Event(0, event.ids)
        if finish is None:
            raise Gone("the answer has no end", "broke")
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

    def _event(self, sent: dict[str, Any], most: int) -> Event:
        """`most`: tokens that prompt or answer can have."""
        try:
            chunk = chunk_of(sent)
        except Unreadable as e:
            raise Gone(str(e), "unreadable") from e
        event = Event(0, self.texts.ids_of(chunk.delta))
        event.finish = FINISH.get(chunk.finish, "stop") if chunk.finish else None
        event.usage, event.cached = usage_of(chunk.usage, most)
        return event

    async def vectors(
        self, body: dict[str, Any], model: str | None, salt: str = "", asks: Callable[[], None] = lambda: None
    ) -> dict[str, Any]:
        """An answer of /v1/embeddings as the server gives it; `asks` is told when one is asked.

        Raises as `submit`.
        """
        wanted, tries = model or self.main, Tries()
        while True:
            able = await self._able(wanted, tries)
            number = min(able, key=lambda i: self.engines[i].active)
            server = self.engines[number]
            salted = server.salt_of(salt)
            more = {"model": wanted} | ({"cache_salt": salted} if salted else {})
            asks()
            try:
                document = await self._unless_ending(server.whole(VECTORS, {**body, **more}))
            except (Busy, Forbidden, Gone) as e:
                self._note(tries, number, e, begun=False)
            else:
                self._judge(tries)
                return document

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


def _lost(e: Exception) -> str:
    failed = isinstance(e, Gone) and e.kind in ("status", "unreadable")
    return f"the server that made this answer {'failed' if failed else 'went away'}: {e}"


def _refused_by_all(tries: Tries) -> ApiError:
    if tries.failed:
        whys = "; ".join(dict.fromkeys(one.why for one in tries.failed.values()))
        return ApiError(503, f"the joined servers failed this request: {whys}", code="servers_failed")
    if 403 in tries.forbidden.values():
        message = "the joined servers refuse this request (HTTP 403): what it says, or the model for our key"
        return ApiError(403, message, code="servers_refuse")
    message = "the joined servers refuse the key that this service asks them by (HTTP 401)"
    return ApiError(503, message, code="servers_refuse_key")
