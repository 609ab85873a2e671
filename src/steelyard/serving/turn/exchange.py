"""One request of OpenAI's generating routes: its answers as they come, in the JSON of its shape."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import zip_longest
from typing import Any

from starlette.responses import Response

from ..base.errors import ApiError
from ..base.transport import Stream, Whole, event
from ..host.answer import Answer, Piece, Top
from ..host.engine_process import EngineLost
from ..host.generation import Prompt, Served
from ..host.job import Job
from .api import Api
from .failures import failed_by, of_engine
from .guarded import FILTERED, shown
from .shapes import Chat, Completion, Scored, generated

DONE = b"data: [DONE]\n\n"


def usage_of(served: Served, prompts: list[Prompt], answers: list[Answer]) -> dict[str, Any]:
    """OpenAI's `usage`; what the prefix cache held is told where the engine tells it."""
    each = max(1, len(answers) // max(1, len(prompts)))  # answers of a prompt, which is counted once
    told = [answer.usage for answer in answers[::each]]
    counts = [usage[0] if usage else len(prompt.ids) for prompt, usage in zip_longest(prompts, told)]
    usage = served.count(sum(counts), answers)
    cached = [answer.cached for answer in answers[::each] if answer.cached is not None]
    return {**usage, "prompt_tokens_details": {"cached_tokens": sum(cached)}} if cached else usage


class Exchange:
    """`caller`: who asks, for the queue."""

    def __init__(
        self,
        api: Api,
        shape: Chat | Completion,
        wanted: Job,
        prompts: list[Prompt],
        caller: Any = None,
        echo: bool = False,
    ) -> None:
        self.api, self.served, self.shape = api, api.served, shape
        self.job, self.prompts, self.caller, self.echo = wanted, prompts, caller, echo

    def response(self, headers: dict[str, str]) -> Response:
        """Raises EngineLost while the engine is away."""
        self.api.check_ready()
        if self.job.stream:
            return Stream(self.chunks(), headers, failed_by(lambda e: event(e.document())))
        return Whole(self.whole, headers)

    async def whole(self) -> dict[str, Any]:
        answers = [self._blank() for _ in range(len(self.prompts) * self.job.n)]
        if any(prompt.max_tokens for prompt in self.prompts):
            async with aclosing(self._pieces()) as pieces:
                async for index, answer, _ in pieces:
                    answers[index] = answer
        choices = [await self._choice(index, answer) for index, answer in enumerate(answers)]
        envelope = self.api.envelope(self.shape.object, self.shape.prefix)
        return {**envelope, "choices": choices, "usage": self._usage(answers)}

    async def _pieces(self) -> AsyncGenerator[tuple[int, Answer, Piece], None]:
        made = self.served.answers(self.job, self.prompts, self.caller)
        async with aclosing(made), aclosing(shown(self.served.guard, self.job, made)) as pieces:
            async for piece in pieces:
                yield piece

    def _blank(self) -> Answer:
        return Answer(self.served.tokenizer.stream(), finish="length")

    def _usage(self, answers: list[Answer]) -> dict[str, Any]:
        return usage_of(self.served, self.prompts, answers)

    async def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        requested = self.prompts[index // self.job.n]
        prompt = requested.ids
        text = (self.served.tokenizer.decode(prompt, skip_special=False) if self.echo else "") + answer.text
        top = None if answer.hidden else self.job.top
        scored = None if top is None else await self._scored(requested, answer, top)
        choice = self.shape.whole(index, text, scored, answer.finish)
        if self.job.token_ids:
            choice |= {"token_ids": [] if answer.hidden else answer.ids, "prompt_token_ids": prompt}
        if self.shape.refused(index):
            answer.finish = FILTERED
        return choice

    async def _scored(self, requested: Prompt, answer: Answer, top: int) -> Scored:
        """The engine's own values for what it made; the prompt's by one scoring pass."""
        if not (self.echo or self.job.second_pass):
            return generated(answer)
        prompt = requested.ids
        ids = prompt + answer.ids
        scores = await self.served.score(requested, ids, top, self.caller)
        # What the engine made keeps the engine's own value: a reader wants to know what it computed.
        logprobs: list[float | None] = [None, *scores.logprobs[: len(prompt) - 1], *answer.logprobs]
        likeliest = zip(scores.top_ids, scores.top_logprobs, strict=True)
        tops: list[Top | None] = [None, *(list(zip(*both, strict=True)) for both in likeliest)] if top else []
        start = 0 if self.echo else len(prompt)
        return Scored(ids[start:], logprobs[start:], tops[start:])

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events, one write for each engine step; errors after the start are events too."""
        envelope = self.api.envelope(self.shape.chunk_object, self.shape.prefix)
        if self.job.include_usage:
            envelope["usage"] = None
        answers: dict[int, Answer] = {}
        try:
            async with aclosing(self._pieces()) as pieces:
                async for index, answer, piece in pieces:
                    first = index not in answers
                    answers[index] = answer
                    bare = self.job.top is None or answer.hidden
                    scored = None if bare else generated(piece)
                    choices = self.shape.chunks(index, piece, first, scored)
                    if self.job.token_ids and choices:
                        choices[0]["token_ids"] = piece.ids
                    if choices:
                        yield b"".join([event({**envelope, "choices": [choice]}) for choice in choices])
                    if self.shape.refused(index):
                        answer.finish = FILTERED
                        if self.job.n * len(self.prompts) == 1:
                            break  # nobody waits for the rest
        except EngineLost as e:
            if not answers:
                raise
            yield event(of_engine(e).document())
            return
        except ApiError as e:
            if not answers:
                raise
            yield event(e.document())
            return
        usage = self._usage([answers[index] for index in sorted(answers)])
        last = event({**envelope, "choices": [], "usage": usage}) if self.job.include_usage else b""
        yield last + DONE
