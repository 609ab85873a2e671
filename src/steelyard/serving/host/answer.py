"""From the engine's token ids to the text of one answer: characters whole, stop strings cut off.

A stop string may span tokens, so text that could be the beginning of one is held back until it is not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Top = list[tuple[int, float]]  # the likeliest ids at one place with their log-probabilities


@dataclass(slots=True)
class Piece:
    """What one event added. `ids` counts every token made, `text` may lag behind."""

    text: str
    ids: list[int]
    logprobs: list[float]
    finish: str | None
    tops: list[Top] | None = None  # the likeliest at each of `ids`, where asked for


@dataclass(slots=True)
class Answer:
    """One answer in the making. `stream` is the tokenizer's; `stops` are never given out."""

    stream: Any
    stops: tuple[str, ...] = ()
    held: str = ""
    text: str = ""
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: str | None = None
    tops: list[Top] = field(default_factory=list)
    cached: int | None = None  # prompt tokens found in the prefix cache, where the engine tells
    stopped_by: str | None = None  # the stop string that ended it
    hidden: bool = False  # its tokens are not shown: they would tell what its text does not
    usage: tuple[int, int] | None = None  # prompt and answer tokens as a joined server counts them
    made: int = 0  # by the engine, whether or not anybody has read them

    @property
    def tokens(self) -> int:
        """How many were made."""
        return self.usage[1] if self.usage else len(self.ids)

    @property
    def paid(self) -> int:
        """How many tokens its key pays for: where its reader has left, those too that nobody read."""
        return self.tokens if self.finish else max(self.tokens, self.made)

    def push(
        self,
        ids: list[int],
        logprobs: list[float] | None,
        finish: str | None,
        tops: list[Top] | None = None,
        cached: int | None = None,
    ) -> Piece:
        """Add what an event brought. After a stop string nothing more counts."""
        taken, out = 0, ""
        for token in ids:
            taken += 1
            out += self._token(token)
            if self.finish:
                break
        if self.finish is None and finish:
            self.finish = finish
            out += self._released(self.held + self.stream.flush(), final=True)
        logprobs_taken = (logprobs or [])[:taken]
        self.ids += ids[:taken]
        self.logprobs += logprobs_taken
        self.text += out
        self.cached = self.cached if cached is None else cached
        likeliest = tops[:taken] if tops else None
        self.tops += likeliest or []
        return Piece(out, ids[:taken], logprobs_taken, self.finish, likeliest)

    def _token(self, token: int) -> str:
        return self._released(self.held + self.stream.push(token), final=False)

    def _released(self, text: str, final: bool) -> str:
        """The part of `text` that can be given out; the rest is held."""
        hits = [(at, stop) for stop in self.stops if (at := text.find(stop)) >= 0]
        if hits:
            cut, self.stopped_by = min(hits)
            self.finish, self.held = "stop", ""
            return text[:cut]
        keep = 0 if final else max((_overlap(text, stop) for stop in self.stops), default=0)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest beginning of `stop` that `text` ends with."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
