"""The served model: jobs in, answers out, and what they count for. HTTP is app.py's affair."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

from ..model import Tokenizer
from .answer import Answer, Piece
from .api_error import ApiError
from .engine_process import EngineLost, EngineProcess
from .engines import CAPABILITIES, Capability, Scores
from .guard import Caller
from .jobs import Job
from .measures import Measures

FRESH_S = 30.0  # /health vouches for a token this young
PROBE_S = 20.0  # a probe waits at most one long prefill step and its own


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids, and how many tokens the answer may have."""

    ids: list[int]
    max_tokens: int


class Served:
    """One engine, its tokenizer and its counters."""

    def __init__(self, engine: EngineProcess, tokenizer: Tokenizer, measures: Measures) -> None:
        self.engine, self.tokenizer, self.measures = engine, tokenizer, measures
        self.max_model_len = engine.settings.max_model_len
        self.capability: Capability = CAPABILITIES[engine.settings.engine]()
        self._probing = asyncio.Lock()
        self._running = 0
        slots = engine.settings.max_num_seqs
        watch = measures.watch
        watch("vllm:num_requests_running", "Requests in the batch", lambda: min(self._running, slots))
        watch("vllm:num_requests_waiting", "Requests that wait", lambda: max(self._running - slots, 0))
        watch(
            "vllm:kv_cache_usage_perc",
            "Share of the KV cache",
            lambda: engine.metrics.get("cache_usage", 0.0),
        )
        watch("steelyard:engine_restarts", "Times the engine started again", lambda: engine.restarts)

    def prompt(self, ids: list[int], asked: int | None, default: int | None) -> Prompt:
        """Raises ApiError 400 where prompt and answer exceed the context: nothing is cut silently."""
        longest = self.max_model_len
        wanted = default if asked is None else asked
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
        return Prompt(ids, longest - len(ids) if wanted is None else wanted)

    # ------------------------------------------------------------------ answers

    async def answers(
        self, job: Job, prompts: list[Prompt], caller: Caller | None = None
    ) -> AsyncGenerator[tuple[int, Answer, Piece], None]:
        """Pieces of all answers as they come, `job.n` for each prompt.

        Before the first piece: ApiError 429 or 503 with `retry_after`. At any time: EngineLost, and
        ApiError 408 once the caller's deadline has passed. Where a job is not streamed, an answer may begin
        anew after a crash: a new Answer under the same index.
        """
        self._running += len(prompts) * job.n
        try:
            if len(prompts) * job.n == 1:
                source = self._one(job, prompts[0], 0)
            else:
                source = _merged(
                    [self._one(job, prompts[i // job.n], i) for i in range(len(prompts) * job.n)]
                )
            async with aclosing(source) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self._running -= len(prompts) * job.n

    async def _one(
        self, job: Job, prompt: Prompt, index: int
    ) -> AsyncGenerator[tuple[int, Answer, Piece], None]:
        answer = Answer(self.tokenizer.stream(), job.stops)
        began = last = time.perf_counter()
        request = {
            **job.sampling,
            "ids": prompt.ids,
            "max_tokens": prompt.max_tokens,
            "seed": job.seed + index,
        }
        async with aclosing(self.engine.submit(request)) as events:
            async for event in events:
                if event.finish == "error":
                    raise EngineLost("the engine has no room for this request")
                now = time.perf_counter()
                (self.measures.inter_token if answer.ids else self.measures.ttft).observe(now - last)
                last = now
                yield (
                    index,
                    answer,
                    answer.push(event.ids, event.logprobs, event.finish, event.tops, event.cached),
                )
                if answer.finish:
                    break
        self.measures.e2e.observe(time.perf_counter() - began)

    async def score(self, ids: list[int], top: int) -> Scores:
        return await self.engine.score(ids, top)

    async def embed(self, batch: list[list[int]]) -> list[list[float]]:
        """One vector for each list of token ids. Raises EngineLost."""
        return await self.engine.embed(batch)

    # ------------------------------------------------------------------ adapters

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters that a request may ask for."""
        return sorted(self.engine.adapters)

    async def load_adapter(self, name: str, folder: str) -> None:
        """Raises EngineLost where the engine cannot."""
        await self.engine.load_adapter(name, folder)

    async def drop_adapter(self, name: str) -> None:
        await self.engine.drop_adapter(name)

    def count(self, prompt_tokens: int, answers: list[Answer]) -> dict[str, Any]:
        """The `usage` of a finished request; the counters move with it."""
        made = sum(len(answer.ids) for answer in answers)
        self.measures.prompt_tokens.inc(prompt_tokens)
        self.measures.generation_tokens.inc(made)
        self.measures.success(answers[0].finish or "length" if answers else "length")
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": made,
            "total_tokens": prompt_tokens + made,
        }

    # ------------------------------------------------------------------ health

    async def healthy(self) -> str | None:
        """None where a token was made in the last 30 s (one is made when idle), else why not."""
        if self.engine.state != "ready":
            return self.engine.state
        async with self._probing:
            if time.monotonic() - self.engine.last_token_at < FRESH_S:
                return None
            with suppress(EngineLost, asyncio.TimeoutError):
                await asyncio.wait_for(self.probe(), PROBE_S)
                return None
        return "stalled"

    async def probe(self, prompt_tokens: int = 4) -> None:
        """Make one token, uncounted. Raises EngineLost."""
        request = {"ids": [(self.tokenizer.eos_ids or (0,))[0]] * prompt_tokens, "max_tokens": 1}
        async with aclosing(self.engine.submit(request)) as events:
            async for event in events:
                if event.finish == "error":
                    raise EngineLost("the engine has no room")


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

    tasks = [asyncio.create_task(drain(source)) for source in sources]
    left = len(tasks)
    try:
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
