"""Which piece of work is with which place. Pure: no Ray, no clock of its own."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

DEPTH = 2  # pieces with one place: one in work, one that waits there
SLOW_S = 30.0  # a piece that takes longer is given to a second place that has nothing else to do
DEADLY = 3  # processes that one piece may end


@dataclass(slots=True)
class Piece:
    body: bytes
    since: float = 0.0
    places: set[int] = field(default_factory=set)
    deaths: int = 0


@dataclass(slots=True)
class Assignment:
    """Pieces by number: those that wait go out lowest first, since answers are wanted in order."""

    pieces: dict[int, Piece] = field(default_factory=dict)
    waiting: list[int] = field(default_factory=list)  # a heap
    held: dict[int, set[int]] = field(default_factory=dict)  # by place

    def add(self, number: int, body: bytes) -> None:
        self.pieces[number] = Piece(body)
        heapq.heappush(self.waiting, number)

    def next_for(self, place: int, now: float) -> int | None:
        """The piece that this place gets now, if any."""
        held = self.held.setdefault(place, set())
        if len(held) >= DEPTH:
            return None
        number = heapq.heappop(self.waiting) if self.waiting else self.slow(held, now)
        if number is not None:
            piece = self.pieces[number]
            piece.since = now
            piece.places.add(place)
            held.add(number)
        return number

    def slow(self, held: set[int], now: float) -> int | None:
        """For a place with nothing to do: the first piece that one other has had for long."""
        alone = (n for n, piece in sorted(self.pieces.items()) if len(piece.places) == 1)
        return None if held else next((n for n in alone if now - self.pieces[n].since > SLOW_S), None)

    def done(self, place: int, number: int) -> bool:
        """Whether this is the first answer of that piece."""
        self.held.get(place, set()).discard(number)
        return self.pieces.pop(number, None) is not None

    def lost(self, place: int) -> None:
        """What only this place had waits again."""
        for number in self.held.pop(place, set()):
            self.back(place, number)

    def died(self, place: int, number: int) -> bool:
        """A process ended at this piece, and it waits again; True where it has ended too many."""
        self.held.get(place, set()).discard(number)
        if number not in self.pieces:
            return False
        self.pieces[number].deaths += 1
        self.back(place, number)
        return self.pieces[number].deaths >= DEADLY

    def back(self, place: int, number: int) -> None:
        if (piece := self.pieces.get(number)) is None:
            return
        piece.places.discard(place)
        if not piece.places:
            heapq.heappush(self.waiting, number)
