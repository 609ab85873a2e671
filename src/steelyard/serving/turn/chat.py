"""One answer to one chat, in parts as they come: what the three chat dialects share.

A dialect makes a `Turn` from its body and puts its parts into its own JSON.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from ..base.errors import ApiError
from ..base.guard import Caller
from ..base.limits import characters_of, check_characters
from ..host.answer import Answer, Piece
from ..host.engine_process import EngineLost, EngineRefused
from ..host.generation import Prompt
from ..host.job import Constraint, Job
from .api import Api
from .bodies import IGNORED, cannot
from .constraints import check
from .exchange import usage_of
from .parts import Part, Reader, Thought, reader
from .tools import Tools, forced_grammar, prompt_text


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRequest:
    """What a chat asks for, whatever its dialect."""

    job: Job
    prompt: Prompt
    tools: Tools
    caller: Caller


class Turn:
    """One answer in the making."""

    def __init__(self, api: Api, request: TurnRequest) -> None:
        self.api, self.request = api, request
        self.answer: Answer | None = None
        self.reasoning_tokens = 0
        self.reader = reader(request.tools, api.tokenizer.template_text or "") or Reader()

    async def parts(self) -> AsyncGenerator[tuple[list[Part], Piece], None]:
        """Raises EngineLost and ApiError as `Served.answers` does."""
        self.api.check_ready()
        served, request = self.api.served, self.request
        async with aclosing(served.answers(request.job, [request.prompt], request.caller)) as pieces:
            async for _, answer, piece in pieces:
                if answer is not self.answer and self.answer is not None:
                    self._begin_anew()
                self.answer = answer
                parts = self.reader.push(piece.text) + (self.reader.end() if piece.finish else [])
                if parts and all(isinstance(part, Thought) for part in parts):
                    self.reasoning_tokens += len(piece.ids)
                yield parts, piece

    def _begin_anew(self) -> None:
        """The engine crashed and the request was retried: nothing of the first attempt was shown."""
        self.reader = reader(self.request.tools, self.api.tokenizer.template_text or "") or Reader()
        self.reasoning_tokens = 0

    @property
    def finish(self) -> str:
        """ "stop", "length" or "tool_calls"."""
        finish = (self.answer.finish if self.answer else None) or "length"
        return "tool_calls" if self.reader.calls_made and finish == "stop" else finish

    def usage(self) -> dict[str, Any]:
        """OpenAI's. The counters move with it: call it once, at the end."""
        return usage_of(self.api.served, [self.request.prompt], [self.answer] if self.answer else [])

    @property
    def cached(self) -> int:
        return (self.answer.cached if self.answer else None) or 0


def of_engine(e: EngineLost) -> ApiError:
    """400 where the engine will not do what was asked, 503 where it could not."""
    if isinstance(e, EngineRefused):
        return ApiError(400, str(e), code="engine_refused")
    return ApiError(503, str(e), code="engine_unavailable")


def with_tools(api: Api, requested: Constraint | None, tools: Tools) -> Constraint | None:
    """The grammar of an answer that may have to be a call. Raises ApiError 400."""
    if requested and tools.mode != "none":
        raise ApiError(
            400, "an answer is either held to a format or may call tools; set tool_choice: none",
            param="tool_choice", code="unsupported_parameter",
        )  # fmt: skip
    return check(forced_grammar(tools), api.capability, "tool_choice") if tools.forced else requested


def tool_headers(headers: dict[str, str], tools: Tools) -> dict[str, str]:
    """The header of what is not held: a free answer's calls keep to no schema, `strict` or not."""
    if tools.mode != "auto" or not any(f.strict for f in tools.callable()):
        return headers
    names = [headers[IGNORED]] if IGNORED in headers else []
    return {**headers, IGNORED: ", ".join([*names, "tools.strict"])}


def chat_ids(
    api: Api,
    messages: Sequence[dict[str, Any]],
    tools: Tools,
    variables: Mapping[str, Any] | None = None,
    begun: str = "",
    generation_prompt: bool = True,
) -> list[int]:
    """Ids of a chat; `begun` is the beginning of the answer where the client wrote it.

    Raises ApiError 400 for what is too long to be rendered.
    """
    characters = characters_of([list(messages), tools.shown(), begun])
    check_characters(characters, api.served.max_model_len, "messages")
    text = prompt_text(api.tokenizer, messages, tools, generation_prompt, variables)
    return api.tokenizer.encode(text + begun)


def switches(api: Api, effort: str | None, field: str) -> dict[str, Any]:
    """How much to reason, as variables of the template. Raises ApiError 400 where it has none."""
    template = api.tokenizer.template_text or ""
    if effort is None:
        return {}
    if "enable_thinking" in template:
        return {"enable_thinking": effort != "none"}
    if "reasoning_effort" in template and effort != "none":
        return {"reasoning_effort": effort}
    if effort == "none" and "<think>" not in template:
        return {}
    raise cannot(field, "this model's template has no switch for reasoning")
