"""Answers in OpenAI's JSON: chat and text completions, whole and as stream chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ..model import Tokenizer
from .answer import Answer, Piece

Top = list[tuple[int, float]]  # the likeliest ids at one place


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

    def whole(self, index: int, text: str, scored: Scored | None, finish: str | None) -> dict[str, Any]: ...
    def chunk(self, index: int, piece: Piece, first: bool, scored: Scored | None) -> dict[str, Any]: ...


class Chat:
    object, chunk_object, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl-"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def whole(self, index: int, text: str, scored: Scored | None, finish: str | None) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        told = self._logprobs(scored) if scored else None
        return {"index": index, "message": message, "logprobs": told, "finish_reason": finish}

    def chunk(self, index: int, piece: Piece, first: bool, scored: Scored | None) -> dict[str, Any]:
        delta = {"role": "assistant", "content": piece.text} if first else {"content": piece.text}
        told = self._logprobs(scored) if scored else None
        return {"index": index, "delta": delta, "logprobs": told, "finish_reason": None}

    def last(self, index: int, finish: str) -> dict[str, Any]:
        return {"index": index, "delta": {}, "logprobs": None, "finish_reason": finish}

    def _logprobs(self, scored: Scored) -> dict[str, Any]:
        content = []
        for place, token in enumerate(scored.ids):
            entry = self._entry(token, scored.logprobs[place])
            tops = scored.tops[place] if scored.tops else []
            entry["top_logprobs"] = [self._entry(t, value) for t, value in tops or []]
            content.append(entry)
        return {"content": content, "refusal": None}

    def _entry(self, token: int, logprob: float | None) -> dict[str, Any]:
        text = self.tokenizer.decode([token], skip_special=False)
        return {"token": text, "logprob": logprob, "bytes": list(self.tokenizer.token_bytes(token))}


class Completion:
    object, chunk_object, prefix = "text_completion", "text_completion", "cmpl-"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def whole(self, index: int, text: str, scored: Scored | None, finish: str | None) -> dict[str, Any]:
        told = self._logprobs(scored) if scored else None
        return {"index": index, "text": text, "logprobs": told, "finish_reason": finish}

    def chunk(self, index: int, piece: Piece, first: bool, scored: Scored | None) -> dict[str, Any]:
        return self.whole(index, piece.text, scored, None)

    def last(self, index: int, finish: str) -> dict[str, Any]:
        return self.whole(index, "", None, finish)

    def _logprobs(self, scored: Scored) -> dict[str, Any]:
        tokens = [self._text(token) for token in scored.ids]
        offsets, at = [], 0
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
    return Scored(piece.ids, list(piece.logprobs), [])
