"""Answers in OpenAI's JSON: chat and text completions, whole and as stream chunks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from ...model import Tokenizer
from ..host.answer import Answer, Piece, Top
from .answer_guard import AnswerGuard
from .guarded import FILTERED, guarded, is_refused
from .parts import CallBegun, CallMore, Part, Reader, TextPart, Thought, reader
from .tools import Tools


@dataclass(frozen=True, slots=True)
class Scored:
    """Tokens with their log-probabilities; None where nothing stands before. `tops` may be empty."""

    ids: list[int]
    logprobs: list[float | None]
    tops: list[Top | None]


class Shape(Protocol):
    object: str
    chunk_object: str
    prefix: str

    def refused(self, index: int) -> bool: ...
    def whole(self, index: int, text: str, scored: Scored | None, finish: str | None) -> dict[str, Any]: ...
    def chunks(
        self, index: int, piece: Piece, first: bool, scored: Scored | None
    ) -> list[dict[str, Any]]: ...


class Chat:
    object, chunk_object, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl-"

    def __init__(
        self, tokenizer: Tokenizer, tools: Tools | None = None, thinking: bool = False,
        guard: AnswerGuard | None = None,
    ) -> None:  # fmt: skip
        self.tokenizer, self.tools, self.thinking, self.guard = tokenizer, tools or Tools(), thinking, guard
        self.readers: dict[int, Reader | None] = {}

    def _reader(self) -> Reader | None:
        return guarded(reader(self.tools, self.tokenizer.template_text or "", self.thinking), self.guard)

    def refused(self, index: int) -> bool:
        """Whether the guard has ended this answer, and nothing more of it goes out."""
        return is_refused(self.readers.get(index))

    def whole(self, index: int, text: str, scored: Scored | None, finish: str | None) -> dict[str, Any]:
        logprobs = self._logprobs(scored) if scored else None
        read = self.readers[index] = self._reader()
        parts = [*read.push(text), *read.end()] if read else [TextPart(text)]
        if is_refused(read):  # a call that was cut off is none
            parts = [part for part in parts if isinstance(part, TextPart)]
        message = message_of(parts)
        finish = finish_of(read, finish)
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish}

    def chunks(self, index: int, piece: Piece, first: bool, scored: Scored | None) -> list[dict[str, Any]]:
        logprobs = self._logprobs(scored) if scored else None
        if first:
            self.readers[index] = self._reader()
        read = self.readers[index]
        if is_refused(read):
            return []
        deltas: list[dict[str, Any]] = (
            [{"content": piece.text}] if read is None and (piece.text or first or logprobs) else []
        )
        if read is not None:
            parts = read.push(piece.text) + (read.end() if piece.finish else [])
            deltas = [delta_of(part) for part in parts] or ([{"content": ""}] if first or logprobs else [])
        if first:
            deltas[0] = {"role": "assistant", **deltas[0]}
        choices: list[dict[str, Any]] = [
            {"index": index, "delta": d, "logprobs": None, "finish_reason": None} for d in deltas
        ]
        if logprobs:
            choices[0]["logprobs"] = logprobs
        if piece.finish or is_refused(read):
            finish = finish_of(read, piece.finish)
            choices.append({"index": index, "delta": {}, "logprobs": None, "finish_reason": finish})
        return choices

    def _logprobs(self, scored: Scored) -> dict[str, Any]:
        return {"content": token_logprobs(self.tokenizer, scored), "refusal": None}


def finish_of(read: Reader | None, finish: str | None) -> str | None:
    if is_refused(read):
        return FILTERED
    return "tool_calls" if read and read.calls_made and finish == "stop" else finish


def message_of(parts: Iterable[Part]) -> dict[str, Any]:
    """An assistant's message: `content` is null where calls are all there is."""
    text, thought, calls = gathered(parts)
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if thought:
        message["reasoning_content"] = thought
    if calls:
        message["content"] = text or None
        message["tool_calls"] = [_call(id, name, arguments) for id, name, arguments in calls]
    return message


def gathered(parts: Iterable[Part]) -> tuple[str, str, list[tuple[str, str, str]]]:
    """Text, reasoning, and calls as (id, name, arguments)."""
    text, thought = "", ""
    calls: list[tuple[str, str, str]] = []
    for part in parts:
        if isinstance(part, TextPart):
            text += part.text
        elif isinstance(part, Thought):
            thought += part.text
        elif isinstance(part, CallBegun):
            calls.append((part.id, part.name, ""))
        else:
            id, name, arguments = calls[-1]
            calls[-1] = (id, name, arguments + part.text)
    return text, thought, calls


def _call(id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def delta_of(part: Part) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"content": part.text}
    if isinstance(part, Thought):
        return {"reasoning_content": part.text}
    if isinstance(part, CallMore):
        return {"tool_calls": [{"index": part.index, "function": {"arguments": part.text}}]}
    return {"tool_calls": [{"index": part.index, **_call(part.id, part.name, "")}]}


def token_logprobs(tokenizer: Tokenizer, scored: Scored) -> list[dict[str, Any]]:
    """OpenAI's list of {token, logprob, bytes, top_logprobs}."""
    content = []
    for place, token in enumerate(scored.ids):
        entry = _entry(tokenizer, token, scored.logprobs[place])
        tops = scored.tops[place] if scored.tops else []
        entry["top_logprobs"] = [_entry(tokenizer, t, value) for t, value in tops or []]
        content.append(entry)
    return content


def _entry(tokenizer: Tokenizer, token: int, logprob: float | None) -> dict[str, Any]:
    text = tokenizer.decode([token], skip_special=False)
    return {"token": text, "logprob": logprob, "bytes": list(tokenizer.token_bytes(token))}


class Completion:
    object, chunk_object, prefix = "text_completion", "text_completion", "cmpl-"

    def __init__(self, tokenizer: Tokenizer, guard: AnswerGuard | None = None) -> None:
        self.tokenizer, self.guard = tokenizer, guard.unlabelled if guard else None
        self.readers: dict[int, Reader | None] = {}
        self.characters_sent: dict[int, int] = {}  # characters of each answer's tokens so far

    def refused(self, index: int) -> bool:
        return is_refused(self.readers.get(index))

    def whole(self, index: int, text: str, scored: Scored | None, finish: str | None) -> dict[str, Any]:
        logprobs = self._logprobs(scored, 0) if scored else None
        if read := guarded(None, self.guard):
            self.readers[index] = read
            text, _, _ = gathered([*read.push(text), *read.end()])
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_of(read, finish)}

    def chunks(self, index: int, piece: Piece, first: bool, scored: Scored | None) -> list[dict[str, Any]]:
        logprobs = None
        if scored:
            logprobs = self._logprobs(scored, self.characters_sent.get(index, 0))
            self.characters_sent[index] = self.characters_sent.get(index, 0) + sum(
                map(len, logprobs["tokens"])
            )
        if first:
            self.readers[index] = guarded(None, self.guard)
        read, text = self.readers[index], piece.text
        if is_refused(read):
            return []
        if read is not None:
            text, _, _ = gathered(read.push(text) + (read.end() if piece.finish else []))
        choices = [{"index": index, "text": text, "logprobs": logprobs, "finish_reason": None}]
        if not (text or first or logprobs):
            choices = []
        if piece.finish or is_refused(read):
            finish = finish_of(read, piece.finish)
            choices.append({"index": index, "text": "", "logprobs": None, "finish_reason": finish})
        return choices

    def _logprobs(self, scored: Scored, at: int) -> dict[str, Any]:
        tokens = [self._text(token) for token in scored.ids]
        offsets = []
        for token in tokens:
            offsets.append(at)
            at += len(token)
        tops = [self._top(top) for top in scored.tops] if scored.tops else None
        return {
            "tokens": tokens, "token_logprobs": scored.logprobs, "top_logprobs": tops, "text_offset": offsets,
        }  # fmt: skip

    def _top(self, top: Top | None) -> dict[str, float] | None:
        """Two ids may share a text (half characters): the likelier keeps it."""
        if top is None:
            return None
        return {self._text(token): value for token, value in reversed(top)}

    def _text(self, token: int) -> str:
        return self.tokenizer.decode([token], skip_special=False)


def generated(piece: Piece | Answer) -> Scored:
    """As the engine told it."""
    return Scored(piece.ids, list(piece.logprobs), list(piece.tops or []))
