"""An answer under guard: each of its texts, and each call's arguments, looked at before it goes out.

It is looked at where all dialects read it, in parts (parts.py), so no way out goes past it. Not here: what is
looked for (sensitive), what is done about it (turn/answer_guard.py).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import Any

from ...sensitive import REFUSALS, Tags, is_chinese
from ..host.answer import Answer, Piece
from ..host.job import Job
from .answer_guard import AnswerGuard
from .parts import CallBegun, Part, Reader, TextPart

LABELS = {"en": "(AI-generated)", "zh": "（AI生成）"}
FILTERED = "content_filter"  # OpenAI's word for an answer that was broken off
Pieces = AsyncIterator[tuple[int, Answer, Piece]]


class Guarded(Reader):
    """The parts that `inner` reads, without what may not go out; a refusal ends them."""

    def __init__(self, inner: Reader, guard: AnswerGuard) -> None:
        super().__init__()
        self.inner, self.guard = inner, guard
        self.tags, self.screen = Tags(), guard.screen(Tags())
        self.last: Part | None = None  # of the text that is open
        self.shown = ""  # its words, for the language of a refusal
        self.said = ""  # of it what is no reasoning
        self.refused = False

    @property
    def calls_made(self) -> int:
        return self.inner.calls_made

    def push(self, text: str) -> list[Part]:
        return self._looked_at(self.inner.push(text))

    def end(self) -> list[Part]:
        return [*self._looked_at(self.inner.end()), *self._closed(), *self._label()]

    def _label(self) -> list[Part]:
        """The words that say that the answer was generated: behind a text, and none that a program reads."""
        if (
            not self.guard.label
            or self.refused
            or self.calls_made
            or self.said.lstrip()[:1] in ("", "{", "[")
        ):
            return []
        return [TextPart("\n\n" + LABELS["zh" if is_chinese(self.shown) else "en"])]

    def _looked_at(self, parts: list[Part]) -> list[Part]:
        out: list[Part] = []
        for part in parts:
            if self.refused:
                break
            if isinstance(part, CallBegun):
                out += [*self._closed(), part]
                continue
            if self.last is None or _place(part) != _place(self.last):
                out += self._closed()
                self.screen = self.guard.screen(self.tags)
            self.last = part
            out += self._given(self.screen.push(part.text))
        return out

    def _closed(self) -> list[Part]:
        """The rest of the text that is open."""
        if self.last is None or self.refused:
            return []
        out = self._given(self.screen.end())
        if not self.refused:
            self.guard.told(self.screen.counts)
        self.last = None
        return out

    def _given(self, text: str) -> list[Part]:
        assert self.last is not None and not isinstance(self.last, CallBegun)
        out: list[Part] = [replace(self.last, text=text)] if text else []
        self.shown += text
        self.said += text if isinstance(self.last, TextPart) else ""
        if self.screen.refused:
            self.refused = True
            self.guard.told(self.screen.counts)
            said = bool(text) and isinstance(self.last, TextPart)
            out.append(TextPart(("\n\n" if said else "") + self._refusal()))
        return out

    def _refusal(self) -> str:
        return REFUSALS["zh" if is_chinese(self.shown) else "en"]


def _place(part: Part) -> tuple[Any, ...]:
    return type(part), getattr(part, "index", None)


def guarded(read: Reader | None, guard: AnswerGuard | None) -> Reader | None:
    """A reader under guard, where there is one that looks at answers or labels them."""
    if guard is None or not (guard.actions or guard.label):
        return read
    return Guarded(read or Reader(), guard)


def is_refused(read: Reader | None) -> bool:
    return isinstance(read, Guarded) and read.refused


async def shown(
    guard: AnswerGuard | None, job: Job, pieces: Pieces
) -> AsyncGenerator[tuple[int, Answer, Piece], None]:
    """The pieces; where tokens are shown beside the text, once their answer is whole.

    Tokens tell what the text does not: those of an answer that does not go out as it is are left out.
    """
    if guard is None or not guard.holds or (job.top is None and not job.token_ids):
        async for index, answer, piece in pieces:
            yield index, answer, piece
        return
    held: dict[int, list[Piece]] = {}
    of: dict[int, Answer] = {}
    async for index, answer, piece in pieces:
        if of.get(index) is not answer:  # the first, or begun anew after a crash
            held[index], of[index] = [], answer
        held[index].append(piece)
        if not piece.finish:
            continue
        text = "".join(each.text for each in held[index])
        if guard.changes(text):
            answer.hidden = True
            yield index, answer, Piece(text, [], [], piece.finish)
            continue
        for each in held[index]:
            yield index, answer, each
