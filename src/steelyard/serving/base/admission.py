"""Who goes into the engine's batch now, who waits, and who is told when to come back.

Work is counted in prompt tokens; an output token weighs `OUTPUT_WEIGHT` of them. One line for each key:
priorities first (the lower, the sooner), then the key that has had least for its weight (start-time fair
queueing, Goyal 1996). A line holds at most `max_queue_s` of the work that this machine does for it.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from ...units import show_s
from .errors import ApiError
from .guard import Caller

OUTPUT_WEIGHT = 4.0  # prefill 1,450 tok/s, decode 400 at 32 streams (docs/decisions/034)
FIRST_OUTPUT_TOKENS = 256.0  # expected of an answer until some were seen
FIRST_RATE = 500.0  # work a second until some was measured
WINDOW_S = 5.0  # of the measured rate
SCALE_CAP = 32  # streams; more of them add little to an engine's rate
RESERVED = 8  # one slot in so many stays free for other keys, where there are others
# The engine reads prompts in the order in which they come: so many tokens of one key's wait there to be read
# (0.09 s of a CPU's engine; elsewhere as long by the measured rate, if that is more), and then one prompt
# more, while another key is asking or has asked lately.
READ_AHEAD_TOKENS, READ_AHEAD_S = 128, 0.09
LATELY_S = 10.0
# What all streams of a step share (the weights are read once) takes as long as so many streams more:
# 27 and 79 ms a step at 8 and 32 streams on a CPU (docs/decisions/034, 126).
CPU_FIXED_STREAMS = 5.0


@dataclass(eq=False)
class Place:
    """One answer's place: first in the line, then in the batch. `leave` may be called more than once."""

    admission: Admission
    line: Line
    work: float
    order: tuple[int, int]  # priority, then who came first
    unread: int = 0  # tokens of its prompt that the engine has not read yet
    width: float = 1.0  # in streams: its whole work an output token, so that its prompt counts too
    granted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    done: float = 0.0
    inside: bool = False
    left: bool = False
    with_engine: bool = False  # which says when it has let go
    deserted: bool = False  # by its client, while the engine had it

    def __lt__(self, other: Place) -> bool:
        return self.order < other.order

    def progress(self, prompt_tokens: int, output_tokens: int) -> None:
        """What the engine has done for it."""
        work = prompt_tokens + OUTPUT_WEIGHT * output_tokens
        self.done += work
        self.admission.rate.did(work)
        if self.inside and not self.left:
            self.admission.read(self)

    def desert(self) -> None:
        """Its client needs it no more: it is free now, or once the engine has let go."""
        if not self.with_engine:
            self.leave()
        elif not (self.left or self.deserted):
            self.deserted = True
            self.admission.deserted += 1

    def leave(self) -> None:
        self.admission.leave(self)


@dataclass(eq=False)
class Line:
    """Those of one key."""

    weight: float = 1.0
    virtual: float = 0.0  # work had so far for each unit of weight
    waiting: list[Place] = field(default_factory=list)  # a heap; those who left it go when they come up
    count: int = 0  # that wait
    work: float = 0.0  # of those
    inside: int = 0
    width: float = 0.0  # in streams, of those inside
    waiting_width: float = 0.0
    unread: int = 0  # prompt tokens of those inside that the engine has not read
    left_at_s: float = -math.inf

    @property
    def active(self) -> bool:
        return bool(self.count or self.inside)

    def add(self, place: Place) -> None:
        heapq.heappush(self.waiting, place)
        self._changed(place, 1)

    def first(self) -> Place | None:
        """Who is next, without those who have left."""
        while self.waiting and self.waiting[0].left:
            heapq.heappop(self.waiting)
        return self.waiting[0] if self.waiting else None

    def take(self) -> Place:
        place = heapq.heappop(self.waiting)
        self._changed(place, -1)
        return place

    def give_up(self, place: Place) -> None:
        """Of one that is marked as left; the heap is cleaned where most of it is."""
        self._changed(place, -1)
        if len(self.waiting) > 2 * self.count + 16:
            self.waiting = [other for other in self.waiting if not other.left]
            heapq.heapify(self.waiting)

    def _changed(self, place: Place, change: int) -> None:
        self.count += change
        self.work = self.work + change * place.work if self.count else 0.0
        self.waiting_width = self.waiting_width + change * place.width if self.count else 0.0


class Rate:
    """Work a second that the engine does when its batch is full, from what it does now."""

    def __init__(self) -> None:
        self.value, self.measured = FIRST_RATE, False
        self._work = self._busy_s = self._streams_s = 0.0
        self._since = time.monotonic()
        self._running = 0

    def start_from(self, work: float, seconds: float) -> None:
        """A first guess: one warm-up request."""
        if not self.measured and seconds > 0:
            self.value = work / seconds

    def running(self, count: int) -> None:
        """Told before each change of the number of requests in the batch."""
        now = time.monotonic()
        if self._running:
            self._busy_s += now - self._since
            self._streams_s += (now - self._since) * self._running
        self._since, self._running = now, count

    def did(self, work: float) -> None:
        self._work += work
        self.running(self._running)
        if self._busy_s >= WINDOW_S:
            self._take()

    def _take(self) -> None:
        streams = max(self._streams_s / self._busy_s, 1.0)
        # 62, 292 and 405 tok/s at 1, 8 and 32 streams: between them the rate grows about as the root.
        full = self._work / self._busy_s * (SCALE_CAP / min(streams, SCALE_CAP)) ** 0.5
        self.value = 0.5 * self.value + 0.5 * full if self.measured else full
        self.measured = True
        self._work = self._busy_s = self._streams_s = 0.0


class Admission:
    """`slots`: answers that the engine's batch takes. `many_keys`: whether others may come.

    `fixed_streams`: how many streams would take as long as the part of a step that does not grow with them;
    infinite where a step takes the same time whatever is in it. `read_ahead`: tokens of one key's prompts
    that wait to be read; infinite where each server has a line of its own.
    """

    def __init__(
        self,
        slots: Callable[[], int],
        max_queue_s: float,
        many_keys: Callable[[], bool],
        fixed_streams: float = math.inf,
        read_ahead: float = READ_AHEAD_TOKENS,
    ) -> None:
        self.slots, self.max_queue_s, self.many_keys = slots, max_queue_s, many_keys
        self.fixed_streams, self.read_ahead = fixed_streams, read_ahead
        self.rate = Rate()
        self.output_tokens = FIRST_OUTPUT_TOKENS
        self.lines: dict[str, Line] = {}
        self.inside = 0
        self.deserted = 0  # of those: the engine has not let them go, and nobody waits for them
        self._virtual = 0.0
        self._serial = itertools.count()

    @property
    def waiting(self) -> int:
        return sum(line.count for line in self.lines.values())

    @property
    def running(self) -> int:
        """In the batch, for somebody."""
        return self.inside - self.deserted

    def work_of(self, prompt_tokens: int, max_tokens: int) -> float:
        """What an answer will probably cost: few answers use all the tokens that they may."""
        return prompt_tokens + OUTPUT_WEIGHT * min(max_tokens, self.output_tokens)

    def count_generated(self, tokens: int) -> None:
        """Told the length of each finished answer."""
        self.output_tokens += (max(tokens, 1) - self.output_tokens) * 0.05

    def enter(
        self, caller: Caller, works: list[float], weight: float = 1.0, prompts: Sequence[int] = ()
    ) -> list[Place]:
        """A place for each answer; `prompts`: how many tokens of each the engine reads first.

        Raises ApiError 429: the line too long, the deadline too near.
        """
        line = self.lines.setdefault(caller.key_id, Line())
        line.weight = weight
        if not line.active:
            line.virtual = max(line.virtual, self._virtual)
        self._check(line, caller, sum(works))
        places = [
            Place(self, line, work, (caller.priority, next(self._serial)), unread, _width(work, unread))
            for work, unread in zip_longest(works, prompts, fillvalue=0)
        ]
        for place in places:
            line.add(place)
        self._grant()
        return places

    def refuse_waiting(self, error: ApiError) -> None:
        """Nobody who waits now will be let in."""
        for line in self.lines.values():
            for place in line.waiting:
                if not (place.left or place.granted.done()):
                    place.granted.set_exception(error)
                    place.granted.exception()  # looked at, whoever has left

    def _check(self, line: Line, caller: Caller, work: float) -> None:
        if not line.count and self._room(line):
            return
        rate = self.rate.value * self._share(line)
        over_s = (line.work + work) / rate - self.max_queue_s
        if over_s > 0 and line.count:
            raise _busy("the queue is full", over_s, "queue_full")
        wait_s = self._ahead(line, caller.priority) / rate
        if caller.left_s is not None and wait_s > caller.left_s:
            raise _busy("the answer would begin after its deadline", wait_s - caller.left_s, "deadline")

    def _share(self, line: Line) -> float:
        """Of the machine, while all who are active now want their part."""
        others = sum(other.weight for other in self.lines.values() if other.active and other is not line)
        return line.weight / (line.weight + others)

    def _ahead(self, line: Line, priority: int) -> float:
        ahead = (place.work for place in line.waiting if place.order[0] <= priority and not place.left)
        return sum(ahead)

    def _room(self, line: Line) -> bool:
        slots = self.slots()
        if not self.many_keys():
            return self.inside < slots
        if self.inside >= slots or line.inside >= max(1, slots - slots // RESERVED):
            return False
        others = self._others(line)
        if others and line.unread >= self._most_unread():
            return False
        return math.isinf(self.fixed_streams) or self._leaves_the_pace(line, others)

    def _most_unread(self) -> float:
        """Tokens of one key's prompts, after which the others' come first."""
        if math.isinf(self.fixed_streams):
            return max(self.read_ahead, READ_AHEAD_S * self.rate.value)
        return self.read_ahead

    def _others(self, line: Line) -> list[Line]:
        """The keys besides that are asking, or have asked lately."""
        since_s = time.monotonic() - LATELY_S
        return [
            other
            for other in self.lines.values()
            if other is not line and (other.active or other.left_at_s > since_s)
        ]

    def _leaves_the_pace(self, line: Line, others: list[Line]) -> bool:
        """Whether, with one more of `line`, each other keeps its part of the pace that it would have alone.

        A step as wide as n streams takes fixed + n; for one with part p of the machine it may take 1 / p
        times as long as a step of its own streams alone. Those of it that wait will come in too.
        """
        weights = line.weight + sum(other.weight for other in others)
        fixed, inside = self.fixed_streams, sum(one.width for one in self.lines.values())
        return all(
            fixed + inside + o.waiting_width
            < (fixed + max(1.0, o.width + o.waiting_width)) * weights / o.weight
            for o in others
        )

    def read(self, place: Place) -> None:
        """The engine has read its prompt, or never will."""
        if place.unread:
            place.line.unread -= place.unread
            place.unread = 0
            self._grant()

    def more_room(self) -> None:
        """`slots` has grown."""
        self._grant()

    def _grant(self) -> None:
        while self.inside < self.slots() and (line := self._next()):
            place = line.take()
            self._virtual = max(self._virtual, line.virtual)
            line.virtual += place.work / line.weight
            line.unread += place.unread
            self._count(place, 1)
            place.inside = True
            if not place.granted.done():
                place.granted.set_result(None)

    def _next(self) -> Line | None:
        waiting = [line for line in self.lines.values() if line.first()]
        waiting.sort(key=lambda line: (line.waiting[0].order[0], line.virtual))
        return next((line for line in waiting if self._room(line)), None)

    def _count(self, place: Place, change: int) -> None:
        line = place.line
        line.inside += change
        line.width = line.width + change * place.width if line.inside else 0.0
        self.inside += change
        self.rate.running(self.inside)

    def leave(self, place: Place) -> None:
        if place.left:
            return
        place.left = True
        line = place.line
        line.left_at_s = time.monotonic()
        if place.inside:
            line.unread -= place.unread
            line.virtual += (place.done - place.work) / line.weight  # what it really cost
            self.deserted -= place.deserted
            self._count(place, -1)
        else:
            line.give_up(place)
            place.granted.cancel()
        self._grant()
        if not line.active and len(self.lines) > 1000:
            self.lines = {key: busy for key, busy in self.lines.items() if busy.active}


def _width(work: float, prompt_tokens: int) -> float:
    output = work - prompt_tokens
    return work / output if output > 0 else 1.0


def _busy(message: str, after_s: float, code: str) -> ApiError:
    return ApiError(
        429, f"{message}; come again in {show_s(max(1, round(after_s)))}", code=code, retry_after=after_s
    )
