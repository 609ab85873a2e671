"""The served model: jobs in, answers out, and what they count for. HTTP is the affair of `api`."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ...hardware import free_bytes
from ...model import Tokenizer
from ..base.accounts.account import Account, Reservation
from ..base.admission import CPU_FIXED_STREAMS, READ_AHEAD_TOKENS, Admission, Place
from ..base.at_once import ENDING, Drain
from ..base.errors import ApiError
from ..base.guard import Caller
from ..base.keys import EVERYBODY, KeyRing
from ..base.measures import Measures
from ..base.spans import tell
from ..engines import CAPABILITIES, Capability, Event, Scores
from .adapters import MEMORY_SHARE, AdapterCache, adapter_bytes
from .answer import Answer, Piece
from .encoders import EncoderService, steps_of
from .engine_process import ATTEMPTS, READY_S, EngineCrashed, EngineLost, EngineProcess
from .job import GrammarCheck, Job
from .joined import BYTES, CONTEXT, Fleet, Texts, usage_of
from .quarantine import Quarantine
from .replicas import Replicas

if TYPE_CHECKING:
    from ...router import Router

REST = -1  # tokens of an answer: as many as there is room for
FRESH_S = 30.0  # /health vouches for a token this young
BEGIN_AT_ONCE = 64
ENCODING = 4  # requests to the encoder that take turns, a step of 4,096 tokens each
PROBE_S = 20.0  # a probe waits at most one long prefill step and its own


Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids, and how many tokens the answer may have."""

    ids: list[int]
    max_tokens: int
    asked: dict[str, Any] | None = None  # of a joined server, in place of the ids


class Served:
    """A model behind one or more engines, its tokenizer, its queue and its counters."""

    def __init__(
        self,
        engine: EngineProcess | Replicas | Fleet,
        tokenizer: Tokenizer | Texts,
        measures: Measures,
        keys: KeyRing | None = None,
        max_queue_s: float = 60.0,
        encoder: EncoderService | None = None,
        clamp: bool = False,
        adapter_budget: float | None = None,
        grammars: GrammarCheck | None = None,
    ) -> None:
        """`clamp`: an answer longer than there is room for is cut to the room, not refused.

        `adapter_budget`: bytes for tuned models that are loaded at once; None: a share of what is free.
        `grammars`: tries each new one out before the engine meets it; None: the engine does that itself.
        """
        self.engine, self.tokenizer, self.measures = engine, tokenizer, measures
        self.keys = keys or KeyRing()
        self.encoder = encoder  # beside the model
        self.clamp = clamp
        self.grammars = grammars
        self.gate: dict[str, Any] | None = None  # its verdict on what is served; None: nobody has judged it
        self.router: Router | None = None  # which adapter a prompt is for, where its name leaves that open
        self.guard: Any = None  # looks at answers and prompts (turn/answer_guard.py); None: nobody does
        self.stores: Any = None  # files, batches, jobs: set by api/stores.py
        self.mirror: Any = None  # copies of requests for a candidate: set by api/app.py
        self.max_model_len = engine.settings.max_model_len
        self.joined = engine if isinstance(engine, Fleet) else None  # servers of others in an engine's place
        self.capability: Capability = (
            engine.capability if isinstance(engine, Fleet) else CAPABILITIES[engine.settings.engine]()
        )
        many_keys = lambda: len(self.keys.keys) > 1  # noqa: E731
        copies = len(getattr(engine, "engines", (engine,)))
        fixed = copies * CPU_FIXED_STREAMS if engine.settings.platform == "cpu" else math.inf
        ahead = math.inf if self.joined else copies * READ_AHEAD_TOKENS
        self.admission = Admission(lambda: engine.slots, max_queue_s, many_keys, fixed, ahead)
        at_once = lambda: engine.slots if self.joined else ENCODING  # noqa: E731
        self.encoding = Admission(at_once, max_queue_s, many_keys)  # another engine: its own line
        if self.joined:
            self.joined.more_room = self._more_room
        self.drain = Drain()
        budget = MEMORY_SHARE * free_bytes() if adapter_budget is None else adapter_budget
        self.tuned = AdapterCache(engine, budget, adapter_bytes(engine.settings, copies))
        self.owners: dict[str, str] = {}  # of adapters that one key has made; the others are for all
        self.quarantine = Quarantine()
        self._probing = asyncio.Lock()
        measures.watch_service(engine, self.admission, self.encoding)

    def _more_room(self) -> None:
        for admission in (self.admission, self.encoding):
            admission.more_room()

    def prompt(
        self, ids: list[int], requested: int | None, default: int | None, asked: dict[str, Any] | None = None
    ) -> Prompt:
        """Raises ApiError 400 where prompt and answer exceed the context: nothing is cut silently."""
        if not self.generates:
            raise ApiError(400, "a sentence encoder is served here: it generates no text", param="model")
        longest = self.max_model_len
        wanted = default if requested is None else requested
        room = longest - len(ids)
        if wanted == REST or (self.clamp and wanted is not None and wanted > room > 0):
            wanted = None
        if not ids:
            raise ApiError(400, "the prompt has no tokens", param="prompt")
        if len(ids) + (1 if wanted is None else wanted) > longest:
            answer = "at least 1" if wanted is None else wanted
            raise ApiError(
                400,
                f"This model's maximum context length is {longest} tokens. However, you requested {answer} "
                f"completion tokens and your prompt has {len(ids)} tokens.",
                param="messages" if default is None else "prompt",
                code="context_length_exceeded",
            )
        return Prompt(ids, longest - len(ids) if wanted is None else wanted, asked)

    @property
    def generates(self) -> bool:
        return self.engine.settings.engine != "encoder"

    # ------------------------------------------------------------------ answers

    async def answers(
        self, job: Job, prompts: list[Prompt], caller: Caller | None = None
    ) -> AsyncGenerator[tuple[int, Answer, Piece], None]:
        """Pieces of all answers as they come, `job.n` for each prompt.

        Before the first piece: ApiError 429 or 503 with `retry_after`, 400 for a grammar. At any time:
        EngineLost, and ApiError 408 once the caller's deadline has passed. Where a job is not streamed, an
        answer may begin anew after a crash: a new Answer under the same index.
        """
        caller = caller or Caller()
        tracks = [prompts[i // job.n] for i in range(len(prompts) * job.n)]
        least = job.sampling.get("min_tokens", 0)
        if any(least > p.max_tokens for p in prompts):
            message = f"min_tokens is {least}, and the answer may have fewer"
            raise ApiError(400, message, param="min_tokens")
        if self.grammars and (grammar := job.sampling.get("grammar")):
            await _in_time(self.grammars.check(grammar, caller.owner), caller)
        likely = self.admission.output_tokens
        expected = sum(len(p.ids) for p in prompts) + sum(min(p.max_tokens, likely) for p in tracks)
        if adapter := job.sampling.get("adapter"):
            caller.adapters.add(adapter)
        async with (
            self.tuned.using(adapter),
            self._reserved(caller, expected) as reservation,
            aclosing(self._placed(job, tracks, caller, reservation)) as pieces,
        ):
            async for piece in pieces:
                yield piece

    async def _placed(
        self, job: Job, tracks: list[Prompt], caller: Caller, reservation: Reservation
    ) -> AsyncGenerator[tuple[int, Answer, Piece], None]:
        works = [self.admission.work_of(len(p.ids), p.max_tokens) for p in tracks]
        prompts = [len(p.ids) for p in tracks]
        places = self._places(self.admission, caller, works, reservation.account, prompts)
        try:
            sources = [
                self._one(job, prompt, i, places[i], caller, reservation) for i, prompt in enumerate(tracks)
            ]
            async with aclosing(sources[0] if len(sources) == 1 else _merged(sources)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            for place in places:
                place.desert()

    def _reserved(self, caller: Caller, tokens: float) -> AbstractAsyncContextManager[Reservation]:
        """Raises ApiError 429."""
        total = self.measures.of_key(caller.key_id).tokens
        return self.keys.reserved(self.keys.account(caller.key_id), tokens, caller.used, total)

    def _places(
        self, admission: Admission, caller: Caller, works: list[float], account: Account,
        prompts: Sequence[int] = (),
    ) -> list[Place]:  # fmt: skip
        """Raises ApiError 429, 503."""
        if self.engine.state == "closed":
            raise ApiError(503, "the engine is closed", code="engine_unavailable", retry_after=30)
        try:
            return admission.enter(caller, works, account.key.weight, prompts)
        except ApiError:
            self.measures.refused("queue")
            raise

    async def _one(
        self, job: Job, prompt: Prompt, index: int, place: Place, caller: Caller, reservation: Reservation
    ) -> AsyncGenerator[tuple[int, Answer, Piece], None]:
        """One answer. What nobody has seen yet is made again after a crash.

        The prompt is paid for when the engine gets it (once, however many its answers), whoever leaves then.
        """
        came = time.perf_counter()
        await _before(place.granted, caller)
        self.measures.queue_time.observe(time.perf_counter() - came)
        charge = Charge(reservation, 0 if index % job.n else len(prompt.ids), prompt.asked is not None)
        request = {
            **job.sampling, "ids": prompt.ids, "max_tokens": prompt.max_tokens, "seed": job.seed + index,
            "salt": f"{caller.owner} {job.sampling.get('salt', '')}",
        }  # fmt: skip
        if prompt.asked is not None:
            request["asked"], request["alone"] = prompt.asked, caller.owner == EVERYBODY
        suspect = False
        for attempt in itertools.count(1):
            answer = Answer(self.tokenizer.stream(), job.stops)
            try:
                async with AsyncExitStack() as turn:
                    if attempt > 1 and self.joined is None:
                        again = self.quarantine.again(id(reservation), suspect)
                        await _in_time(turn.enter_async_context(again), caller)
                    if self.joined is None:  # a fleet waits by itself, for a server of the request's model
                        await self._until_ready(caller)
                    async with aclosing(self._pieces(request, answer, place, caller, came, charge)) as pieces:
                        async for piece in pieces:
                            yield index, answer, piece
                break
            except EngineCrashed as e:
                if suspect or attempt == ATTEMPTS or (job.stream and answer.ids):
                    raise
                suspect = self.joined is None and (e.fresh or attempt > 1)  # others' engines are not ended
                self.measures.retried()
            finally:
                if answer.paid:
                    reservation.spend_completion(answer.paid)
        self.admission.count_generated(answer.tokens)
        self.measures.e2e.observe(time.perf_counter() - came)

    async def _until_ready(self, caller: Caller) -> None:
        """Raises ApiError 503 where no engine comes back in time."""
        left = caller.left_s
        if not await self.engine.until_ready(READY_S if left is None else max(min(left, READY_S), 0)):
            again_s = 2 * self.engine.load.get("load_s", 5.0)
            raise ApiError(
                503, f"the engine is {self.engine.state}", code="engine_unavailable", retry_after=again_s
            )

    async def _pieces(
        self, request: dict[str, Any], answer: Answer, place: Place, caller: Caller, came: float,
        charge: Charge,
    ) -> AsyncGenerator[Piece, None]:  # fmt: skip
        last = came

        def let_go(begun: bool = True) -> None:
            if begun:
                charge.settle(over=True)
            else:
                charge.refund()
            place.leave()

        def generated(prompt_tokens: int, ids: int) -> None:
            answer.made += ids
            place.progress(prompt_tokens, ids)

        charge.take()
        place.with_engine = True
        async with aclosing(self._submitted(request, place, let_go, generated, charge)) as events:
            while (event := await _in_time(anext(events, None), caller)) is not None:
                if event.finish == "error":
                    raise EngineLost("the engine has no room for this request")
                now = time.perf_counter()
                charge.settle()
                if answer.ids:
                    self.measures.inter_token.observe(now - last)
                else:
                    self.measures.ttft.observe(now - came)
                last = now
                if event.cached is not None:
                    self.measures.prefix(len(request["ids"]), event.cached)
                if event.usage:
                    answer.usage = event.usage
                    charge.correct(event.usage[0])
                yield answer.push(event.ids, event.logprobs, event.finish, event.tops, event.cached)
                if answer.finish:
                    break

    async def _submitted(
        self, request: dict[str, Any], place: Place, let_go: Callable[[bool], None],
        generated: Callable[[int, int], None], charge: Charge,
    ) -> AsyncGenerator[Event, None]:  # fmt: skip
        """Where the engine is lost, or refuses, the place and what was paid for nothing are given back."""
        try:
            async with aclosing(self.engine.submit(request, let_go, generated)) as events:
                async for event in events:
                    yield event
        except (EngineLost, ApiError):
            place.with_engine = False
            charge.refund()
            raise

    async def score(self, prompt: Prompt, ids: list[int], top: int, caller: Caller | None = None) -> Scores:
        """Scores of `ids`: the prompt and what was made of it, in its turn like an answer.

        A prompt of which nothing was made is paid for here. Raises EngineLost, ApiError as `answers` does.
        """
        caller = caller or Caller()
        unpaid = 0 if prompt.max_tokens else len(ids)
        async with (
            self._reserved(caller, unpaid) as reservation,
            self._in_turn(self.admission, caller, len(ids), reservation.account) as place,
        ):
            reservation.spend_prompt(unpaid)
            reservation.computed(unpaid)
            return await _computed(self.engine.score(ids, top), place, len(ids), caller)

    async def vectors(self, batch: list[list[int]], caller: Caller) -> list[list[float]]:
        """Of the encoder, one vector (or score) for each list of ids, in its turn like an answer.

        A step is paid for when the encoder gets it. Raises EngineLost, ApiError as `answers` does.
        """
        assert self.encoder is not None
        tokens = sum(map(len, batch))
        vectors: list[list[float]] = []
        async with (
            self._reserved(caller, tokens) as reservation,
            self._in_turn(self.encoding, caller, tokens, reservation.account) as place,
        ):
            for step in steps_of(batch):
                work = sum(map(len, step))
                reservation.spend_prompt(work)
                reservation.computed(work)
                vectors += await _computed(self.encoder.engine.embed(step), place, work, caller)
        return vectors

    async def relayed_vectors(
        self, body: dict[str, Any], model: str | None, tokens: int, caller: Caller
    ) -> dict[str, Any]:
        """A joined server's embeddings; `tokens` is an estimate, its own usage pays.

        Raises EngineLost, ApiError as `answers` does.
        """
        assert self.joined is not None
        async with (
            self._reserved(caller, tokens) as reservation,
            self._in_turn(self.encoding, caller, tokens, reservation.account) as place,
        ):
            charge = Charge(reservation, tokens, estimated=True)

            def asks() -> None:
                if place.deserted:
                    raise EngineLost("nobody waits for it any more")
                charge.take()  # whoever leaves then: the server goes on with it

            work = self.joined.vectors(body, model, caller.owner, asks)
            try:
                document = await _computed(work, place, tokens, caller)
            except (EngineLost, ApiError) as e:
                if not (isinstance(e, ApiError) and e.status == 408):
                    charge.refund()
                raise
            usage, _ = usage_of(document.get("usage"), CONTEXT + BYTES * tokens)
            if usage:
                charge.correct(usage[0])
            charge.settle(over=True)
            self.measures.prompt_tokens.inc(charge.tokens)
            self.measures.success("stop")
        return document

    @asynccontextmanager
    async def _in_turn(
        self, admission: Admission, caller: Caller, tokens: int, account: Account
    ) -> AsyncIterator[Place]:
        """One place, once it is granted. Raises ApiError 408, 429, 503."""
        (place,) = self._places(admission, caller, [float(tokens)], account)
        try:
            await _before(place.granted, caller)
            yield place
        finally:
            place.desert()

    # ------------------------------------------------------------------ adapters

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters that a request may ask for."""
        return sorted({*self.engine.adapters, *self.tuned.folders})

    def may_use(self, name: str, caller: Caller) -> bool:
        """Whether an adapter is the caller's own, or everybody's."""
        return self.owners.get(name) in (None, caller.owner) or "admin" in caller.scopes

    def offer_adapter(self, name: str, folder: str, owner: str | None = None) -> None:
        """It can be asked for from now on, and is loaded when it is."""
        if owner is not None:
            self.owners[name] = owner
        self.tuned.folders[name] = folder

    async def load_adapter(self, name: str, folder: str, owner: str | None = None) -> None:
        """At once; where that fails it is not offered. Raises EngineLost, ApiError where it has no room."""
        self.offer_adapter(name, folder, owner)
        try:
            await self.tuned.load(name)
        except BaseException:
            self.tuned.folders.pop(name, None)
            raise

    async def drop_adapter(self, name: str) -> None:
        await self.tuned.drop(name)
        self.owners.pop(name, None)

    def count(self, prompt_tokens: int, answers: list[Answer]) -> dict[str, Any]:
        """The `usage` of a finished request; the counters move with it."""
        generated = sum(answer.tokens for answer in answers)
        self.measures.prompt_tokens.inc(prompt_tokens)
        self.measures.generation_tokens.inc(generated)
        self.measures.success(answers[0].finish or "length" if answers else "length")
        tell(
            self.measures.model_name,
            gen_ai__usage__input_tokens=prompt_tokens,
            gen_ai__usage__output_tokens=generated,
            gen_ai__response__finish_reasons=[answer.finish or "length" for answer in answers],
        )
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": generated,
            "total_tokens": prompt_tokens + generated,
        }

    # ------------------------------------------------------------------ the end, and health

    def end(self) -> None:
        """What is still under way ends with an error, in the words of its dialect: the service ends."""
        for admission in (self.admission, self.encoding):
            admission.refuse_waiting(ApiError(503, ENDING, code="draining"))
        engines = {self.engine, self.encoder.engine} if self.encoder else {self.engine}
        for engine in engines:
            engine.end_all(ENDING)

    def unready(self) -> str | None:
        """Why no new work is taken, None where it is; at once. A full queue is no reason: it says 429."""
        if self.drain.begun:
            return "draining"
        if self.keys.fault is not None:
            return "degraded"
        if self.engine.state != "ready":
            return self.engine.state
        return "stalled" if self.engine.stopped else None

    async def healthy(self) -> str | None:
        """None where a token was made in the last 30 s (one is made when idle), else why not."""
        if why := self.unready():
            return why
        async with self._probing:
            if time.monotonic() - self.engine.last_token_at < FRESH_S:
                return None
            with suppress(EngineLost, ApiError, asyncio.TimeoutError):
                await asyncio.wait_for(self.probe(), PROBE_S)
                return None
        return "stalled"

    async def probe(self, prompt_tokens: int = 4, first: int | None = None) -> None:
        """Make one token, uncounted; `first` begins a prompt that no cache holds. Raises EngineLost."""
        if not self.generates:
            await self.engine.embed([[0] * prompt_tokens])
            return
        ids = [(self.tokenizer.eos_ids or (0,))[0]] * prompt_tokens
        if first is not None:
            ids[0] = first
        request = {"ids": ids, "max_tokens": 1}
        async with aclosing(self.engine.submit(request)) as events:
            async for event in events:
                if event.finish == "error":
                    raise EngineLost("the engine has no room")


class Charge:
    """Of one prompt: taken when the engine gets it, settled once it has begun, else given back."""

    def __init__(self, reservation: Reservation, tokens: int, estimated: bool = False) -> None:
        """`estimated`: a joined server counts the prompt, and tells that with the end of the answer."""
        self.reservation, self.tokens, self.estimated = reservation, tokens, estimated
        self.taken = self.settled = False

    def take(self) -> None:
        if not self.taken:
            self.taken = True
            self.reservation.spend_prompt(self.tokens)

    def settle(self, over: bool = False) -> None:
        """It is computed: counted once, however often it is made again; an estimate when it is `over`."""
        if not self.settled and (over or not self.estimated):
            self.settled = True
            self.reservation.computed(self.tokens)

    def correct(self, tokens: int) -> None:
        """To what a joined server has counted; an answer beside others of its prompt pays none."""
        if self.tokens and not self.settled:
            self.reservation.spend_prompt(tokens - self.tokens)
            self.tokens = tokens

    def refund(self) -> None:
        if self.taken:
            self.taken = False
            self.reservation.refund(self.tokens)


async def _before(waited: asyncio.Future[None], caller: Caller) -> None:
    """Raises ApiError 408 once the caller's deadline has passed."""
    if waited.done():
        return None if waited.cancelled() else waited.result()
    await _in_time(asyncio.shield(waited), caller)  # its place may be given on while this one is being told


async def _in_time(work: Awaitable[Result], caller: Caller) -> Result:
    """Raises ApiError 408 once the caller's deadline has passed."""
    if caller.deadline_s is None:
        return await work
    try:
        async with asyncio.timeout(caller.left_s):
            return await work
    except TimeoutError:
        message = "the deadline of this request has passed"
        raise ApiError(408, message, code="deadline_exceeded") from None


async def _computed(work: Awaitable[Result], place: Place, tokens: int, caller: Caller) -> Result:
    """What the engine computes in one piece; whoever leaves meanwhile holds the place until it is done.

    Raises ApiError 408 once the caller's deadline has passed.
    """
    task = asyncio.ensure_future(work)
    place.with_engine = True

    def done(_: asyncio.Future[Result]) -> None:
        place.with_engine = False
        place.progress(tokens, 0)
        if place.deserted:
            place.leave()
        if not task.cancelled():
            task.exception()  # looked at, whoever has left

    task.add_done_callback(done)
    return await _in_time(asyncio.shield(task), caller)


async def _merged(sources: list[AsyncGenerator[Any, None]]) -> AsyncGenerator[Any, None]:
    """Items of several iterators as they come; the first error ends all."""
    queue: asyncio.Queue[Any] = asyncio.Queue()

    async def drain(source: AsyncGenerator[Any, None]) -> None:
        try:
            async with aclosing(source) as items:
                async for item in items:
                    queue.put_nowait((item, None))
            queue.put_nowait((None, None))
        except Exception as e:  # told to the reader, who raises it
            queue.put_nowait((None, e))

    tasks: list[asyncio.Task[None]] = []
    left = len(sources)
    try:
        for number, source in enumerate(sources, 1):
            tasks.append(asyncio.create_task(drain(source)))
            if not number % BEGIN_AT_ONCE:  # others have their turn: 2,048 at once take the loop 0.1 s
                await asyncio.sleep(0)
        while left:
            item, error = await queue.get()
            if error:
                raise error
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
