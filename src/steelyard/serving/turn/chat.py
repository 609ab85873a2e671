"""One answer to one chat, in parts as they come: what the three chat dialects share.

A dialect makes a `Turn` from its body and puts its parts into its own JSON.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import orjson

from ..base.errors import ApiError
from ..base.guard import Caller
from ..base.limits import characters_of, check_characters
from ..host.answer import Answer, Piece
from ..host.generation import Prompt
from ..host.job import Constraint, Job
from .api import Api
from .bodies import naming
from .constraints import check
from .exchange import usage_of
from .guarded import FILTERED, guarded, is_refused, shown
from .parts import Part, Reader, Thinking, Thought, reader
from .tools import Tools, call_or_format, forced_grammar, prompt_text

NO_REASONING = f"\n\n{Thinking.CLOSE}\n\n"  # as the templates with a switch write it


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRequest:
    """What a chat asks for, whatever its dialect."""

    job: Job
    prompt: Prompt
    tools: Tools
    caller: Caller
    thinking: bool = False  # the prompt ends inside the reasoning: the answer goes on with it


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """Token ids of a chat, and whether they end inside the reasoning."""

    ids: list[int]
    thinking: bool
    asked: dict[str, Any] | None = None  # of a joined server, in place of the ids


class Turn:
    """One answer in the making."""

    def __init__(self, api: Api, request: TurnRequest) -> None:
        self.api, self.request = api, request
        self.answer: Answer | None = None
        self.reasoning_tokens = 0
        self.reader = self._reader()

    async def parts(self) -> AsyncGenerator[tuple[list[Part], Piece], None]:
        """Raises EngineLost and ApiError as `Served.answers` does."""
        self.api.check_ready()
        served, request = self.api.served, self.request
        made = served.answers(request.job, [request.prompt], request.caller)
        async with aclosing(made), aclosing(shown(served.guard, request.job, made)) as pieces:
            async for _, answer, piece in pieces:
                if answer is not self.answer and self.answer is not None:
                    self._begin_anew()
                self.answer = answer
                parts = self.reader.push(piece.text) + (self.reader.end() if piece.finish else [])
                if served.joined is None and parts and all(isinstance(part, Thought) for part in parts):
                    self.reasoning_tokens += len(piece.ids)
                yield parts, piece
                if self.refused:
                    answer.finish = FILTERED
                    break  # nobody waits for the rest

    @property
    def refused(self) -> bool:
        """Whether the guard has ended the answer."""
        return is_refused(self.reader)

    def _begin_anew(self) -> None:
        """The engine crashed and the request was retried: nothing of the first attempt was shown."""
        self.reader = self._reader()
        self.reasoning_tokens = 0

    def _reader(self) -> Reader:
        request = self.request
        read = reader(request.tools, self.api.tokenizer.template_text or "", request.thinking)
        return guarded(read, self.api.served.guard) or Reader()

    @property
    def finish(self) -> str:
        """ "stop", "length", "tool_calls", or "content_filter" where the guard has ended it."""
        if self.refused:
            return FILTERED
        finish = (self.answer.finish if self.answer else None) or "length"
        return "tool_calls" if self.reader.calls_made and finish == "stop" else finish

    def usage(self) -> dict[str, Any]:
        """OpenAI's. The counters move with it: call it once, at the end."""
        return usage_of(self.api.served, [self.request.prompt], [self.answer] if self.answer else [])

    @property
    def cached(self) -> int:
        return (self.answer.cached if self.answer else None) or 0


def with_tools(api: Api, requested: Constraint | None, tools: Tools) -> tuple[Constraint | None, Tools]:
    """The grammar of an answer that must or may be a call, and the tools as they are read from it.

    Free tools beside a format: the answer is a list of calls or keeps to the format. Raises ApiError 400.
    """
    if api.served.joined is not None:
        return requested, tools
    if tools.forced:
        return check(forced_grammar(tools), api.capability, "tool_choice"), tools
    if requested is None or tools.mode == "none" or not tools.callable():
        return requested, tools
    either = check(call_or_format(tools, requested), api.capability, "response_format")
    return either, replace(tools, or_format=True)


def tool_headers(headers: dict[str, str], tools: Tools) -> dict[str, str]:
    """The header of what is not held: a free answer's calls keep to no schema, `strict` or not."""
    if tools.mode != "auto" or not any(f.strict for f in tools.callable()):
        return headers
    return naming(headers, ["tools.strict"])


def chat_prompt(
    api: Api,
    messages: Sequence[dict[str, Any]],
    tools: Tools,
    variables: Mapping[str, Any] | None = None,
    *,
    begun: str = "",
    held: bool = False,
    generation_prompt: bool = True,
) -> ChatPrompt:
    """A chat as ids; `begun` is the beginning of the answer where the client wrote it.

    Some templates open the reasoning themselves. It is closed again where a grammar holds the answer from
    its first token on (`held`), and where the client has begun the answer. Raises ApiError 400 for what is
    too long to be rendered.
    """
    characters = characters_of([list(messages), tools.shown(), begun])
    check_characters(characters, api.served.max_model_len, "messages")
    if api.served.guard is not None:
        messages = api.served.guard.messages(messages)
    if api.served.joined is not None:
        return _asked_of_others(api, messages, tools, variables or {}, begun)
    text = prompt_text(api.tokenizer, messages, tools, generation_prompt, variables)
    thinking = generation_prompt and text.rstrip().endswith(Thinking.OPEN)
    if thinking and (held or begun):
        text, thinking = text.rstrip() + NO_REASONING, False
    return ChatPrompt(api.tokenizer.encode(text + begun), thinking)


def _asked_of_others(
    api: Api, messages: Sequence[dict[str, Any]], tools: Tools, variables: Mapping[str, Any], begun: str
) -> ChatPrompt:
    """The chat as a joined server is asked; its ids count it roughly and tell its beginning.

    Raises ApiError 400 for an answer that the client has begun: servers differ in how they go on with it.
    """
    if begun:
        raise ApiError(400, "joined servers do not go on with an answer that has begun", param="messages")
    asked: dict[str, Any] = {"messages": list(messages), **tools.as_asked()}
    switched = {name: value for name, value in variables.items() if name != "reasoning_effort"}
    if "reasoning_effort" in variables:
        asked["reasoning_effort"] = variables["reasoning_effort"]
    if switched:
        asked["chat_template_kwargs"] = switched
    text = orjson.dumps([tools.shown(), *messages]).decode()
    return ChatPrompt(api.tokenizer.encode(text), False, asked)


def switches(api: Api, effort: str | None) -> dict[str, Any] | None:
    """How much to reason, as variables of the template; None where it has no switch for that."""
    template = api.tokenizer.template_text or ""
    if effort is None:
        return {}
    if api.served.joined is not None:
        return {"reasoning_effort": effort}
    if "enable_thinking" in template:
        return {"enable_thinking": effort != "none"}
    if "reasoning_effort" in template and effort != "none":
        return {"reasoning_effort": effort}
    if effort == "none" and "<think>" not in template:
        return {}
    return None
