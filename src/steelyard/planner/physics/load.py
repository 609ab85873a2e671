"""What the users of a service feel: requests in flight, waiting, percentiles of TTFT and TPOT.

A replay of 500 requests through the steps of one engine, which gives each running answer a token and fills
the rest of its budget with prompts (Agrawal et al. 2024, arXiv 2403.02310: chunked prefills). Pure: the
replay's chance is a fixed sequence. For finalists; a search takes the means over whole arrays
(serve_search.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush
from math import ceil, inf

import numpy as np

from .inference import CHUNK, ServeSetup, prompt_s, serve_s
from .sizes import Array, Hardware, Sizes, total

REQUESTS = 500
PERCENTILES = (50, 90, 95, 99)
BATCHES = 24  # points on which a step's time is taken between one request and the most
UNEQUAL = 0.5  # squared coefficient of variation of prompts and of outputs
FULL = 0.98  # of its time an engine may spend; beyond it the queue has no mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests of one replica: `users` always in flight, or a rate and how bursty they come.

    `unequal`: how unequal prompts and answers are; the prompts of users are all as long as told, as load
    generators that keep users in flight have them. `most`: in one batch, what else comes waits.
    """

    arrival_per_s: float = 0.0
    users: int = 0
    burstiness: float = 1.0  # squared coefficient of variation of the gaps; 1 = Poisson
    unequal: float = UNEQUAL
    most: int = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Felt:
    """Seconds by percentile, the mean number in flight, the share of time the engine is busy."""

    ttft_s: Mapping[int, float]
    tpot_s: Mapping[int, float]
    batch: float
    busy: float
    stable: bool  # False: more arrives than can be served; the percentiles then say little


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """Times of one engine: `step_s[n]` of a step with n running answers, `token_s` more a prompt token."""

    step_s: list[float]
    token_s: float
    prompt: float  # tokens of a request that are not cached
    output: float
    chunk: float = CHUNK  # tokens in one step


def waiting_s(rate: Array, served_s: Array, unequal: Array, burstiness: Array, most: float = FULL) -> Array:
    """Mean wait of a single queue, as if it were busy for `most` of the time where it is for more.

    Allen and Cunneen 1978; Pollaczek-Khinchine's where burstiness is 1.
    """
    busy = np.minimum(rate * np.asarray(served_s), most)
    return busy / (1 - busy) * served_s * (burstiness + unequal) / 2


def under_load(
    sizes: Sizes, setup: ServeSetup, hardware: Hardware, constant: dict[str, Array], load: Load
) -> Felt:
    """One setup (numbers, not arrays) under a load; `setup.batch` is not looked at."""
    engine = engine_of(sizes, setup, hardware, constant, load.most)
    ttft, tpot, batch = replay(engine, load)
    work_s = engine.token_s * engine.prompt + engine.output * engine.step_s[-1] / load.most
    busy = load.arrival_per_s * work_s if load.arrival_per_s else 1.0
    return Felt(
        ttft_s={p: float(np.percentile(ttft, p)) for p in PERCENTILES},
        tpot_s={p: float(np.percentile(tpot, p)) for p in PERCENTILES},
        batch=batch,
        busy=min(1.0, busy),
        stable=busy < FULL or not load.arrival_per_s,
    )


def engine_of(
    sizes: Sizes, setup: ServeSetup, hardware: Hardware, constant: dict[str, Array], most: int
) -> Engine:
    """A step's time at each batch up to the most, and what prompts add to it."""
    points = np.geomspace(1.0, max(2, most), BATCHES)
    times = serve_s(sizes, replace(setup, batch=points), hardware, constant)
    steps = np.broadcast_to(total(times["decode"]), points.shape)
    whole = float(np.broadcast_to(total(times["prefill"]), points.shape)[0])
    work = float(np.broadcast_to(prompt_s(times["prefill"]), points.shape)[0])
    prompt = max(1.0, float(setup.prompt) * (1 - float(setup.prefix_hit)))
    running = np.interp(np.arange(1, most + 1), points, steps).tolist()
    return Engine(
        step_s=[whole - work, *running], token_s=work / prompt, prompt=prompt, output=float(setup.output)
    )


def replay(engine: Engine, load: Load) -> tuple[np.ndarray, np.ndarray, float]:
    """TTFT and TPOT of each request, and the mean number of requests in flight."""
    flow = _Flow(engine, load)
    while flow.left:
        flow.turn()
    first, done = np.array(flow.first_s[:REQUESTS]), np.array(flow.done_s[:REQUESTS])
    came, outputs = np.array(flow.came_s[:REQUESTS]), flow.outputs[:REQUESTS]
    several = outputs > 1
    tpot = (done - first)[several] / (outputs[several] - 1)
    in_flight = load.users or float((done - came).sum() / max(1e-12, done.max() - came.min()))
    return first - came, tpot if several.any() else np.zeros(1), float(in_flight)


@dataclass(slots=True)
class _Flow:
    """The requests of one load and the clock; places in the lists are requests in the order they came."""

    engine: Engine
    load: Load
    now_s: float = 0.0
    given: int = 0  # tokens that each running answer has had
    asked: int = 0
    left: int = REQUESTS
    came_s: list[float] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    done_s: list[float] = field(default_factory=list)
    lengths: list[float] = field(default_factory=list)  # of prompts
    ahead: list[float] = field(default_factory=list)  # tokens of a prompt that no step has taken yet
    outputs: np.ndarray = field(default_factory=lambda: np.zeros(0))
    waiting: deque[int] = field(default_factory=deque)
    running: list[tuple[int, int]] = field(default_factory=list)  # heap of (tokens given at its end, request)

    def __post_init__(self) -> None:
        """Draw the requests. Users who are always there begin as one finds them: somewhere in an answer."""
        chance, load = np.random.default_rng(0), self.load
        sigma = np.sqrt(np.log1p(load.unequal))
        drawn = np.exp(chance.normal(-(sigma**2) / 2, sigma, (2, REQUESTS)))
        self.lengths = (self.engine.prompt * (1.0 if load.users else drawn[0]) * np.ones(REQUESTS)).tolist()
        self.ahead = list(self.lengths)
        self.outputs = np.maximum(1, np.rint(self.engine.output * drawn[1])).astype(int)
        self.first_s, self.done_s = [0.0] * REQUESTS, [0.0] * REQUESTS
        if load.users:
            begun = min(load.users, load.most)
            rest = np.ceil(self.outputs[np.arange(begun) % REQUESTS] * chance.random(begun)).astype(int)
            self.running = [(int(n), -1) for n in rest]
            heapify(self.running)
            for _ in range(load.users - begun):
                self._ask()
        else:
            shape = 1 / max(load.burstiness, 1e-6)
            self.came_s = np.cumsum(chance.gamma(shape, 1 / (shape * load.arrival_per_s), REQUESTS)).tolist()

    def _ask(self) -> None:
        """One request more; those beyond REQUESTS keep the load up and are not counted."""
        place = self.asked
        self.asked += 1
        if place >= REQUESTS:
            self.ahead.append(self.lengths[place % REQUESTS])
            self.first_s.append(0.0)
            self.done_s.append(0.0)
        self.came_s.append(self.now_s)
        self.waiting.append(place)

    def turn(self) -> None:
        """One step with prompts in it, or all steps until a request comes or ends."""
        came = self.came_s
        if not self.load.users:
            while self.asked < REQUESTS and came[self.asked] <= self.now_s:
                self.waiting.append(self.asked)
                self.asked += 1
        coming_s = came[self.asked] if not self.load.users and self.asked < REQUESTS else inf
        if self.waiting and len(self.running) < self.load.most:
            self._mixed()
        elif self.running:
            step_s = self.engine.step_s[len(self.running)]
            steps = self.running[0][0] - self.given
            if coming_s < inf and not self.waiting:
                steps = min(steps, max(1, ceil((coming_s - self.now_s) / step_s)))
            self.given += steps
            self.now_s += steps * step_s
            self._end()
        else:
            self.now_s = coming_s

    def _mixed(self) -> None:
        """A step that fills its budget with prompts, oldest first, beside a token for each that runs."""
        room, filled = max(1.0, self.engine.chunk - len(self.running)), 0.0
        through: list[int] = []
        seats = self.load.most - len(self.running)
        while self.waiting and filled < room and len(through) < seats:
            place = self.waiting[0]
            taken = min(self.ahead[place], room - filled)
            filled += taken
            self.ahead[place] -= taken
            if self.ahead[place] > 0:
                break
            through.append(self.waiting.popleft())
        self.now_s += self.engine.step_s[len(self.running)] + self.engine.token_s * filled
        self.given += 1
        self._end()
        for place in through:
            self.first_s[place] = self.now_s
            heappush(self.running, (self.given + int(self.outputs[place % REQUESTS]) - 1, place))
        self._end()

    def _end(self) -> None:
        """Let those go who have their last token; users ask again at once."""
        while self.running and self.running[0][0] <= self.given:
            _, place = heappop(self.running)
            if place >= 0:
                self.done_s[place] = self.now_s
                self.left -= place < REQUESTS
            if self.load.users:
                self._ask()
