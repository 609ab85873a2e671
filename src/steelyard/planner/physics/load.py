"""What the users of a service feel: requests in flight, waiting, percentiles of TTFT and TPOT.

The mean is a fixed point, the percentiles come from a replay of 2,000 requests. Pure: the replay's chance
is a fixed sequence. For finalists; a search takes the means over whole arrays (serve_search.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from .inference import ServeSetup, serve_s
from .sizes import Array, Hardware, Sizes, total

REQUESTS = 2000
PERCENTILES = (50, 90, 95, 99)
BATCHES = 24  # points on which a step's time is taken between one request and the most
ROUNDS = 40
UNEQUAL = 0.5  # squared coefficient of variation of prompts and of outputs
FULL = 0.98  # of its time an engine may spend; beyond it the queue has no mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests of one replica: rate, how bursty they come, how unequal they are, the most in one batch."""

    arrival_per_s: float
    burstiness: float = 1.0  # squared coefficient of variation of the gaps; 1 = Poisson
    unequal: float = UNEQUAL
    most: float = 256.0
    apart: bool = False  # prefill on replicas of its own: no chunk stands between two tokens
    moved_s: float = 0.0  # to carry a prompt's KV cache from there


@dataclass(frozen=True, slots=True, kw_only=True)
class Felt:
    """Seconds by percentile, the mean number in flight, the share of time the engine is busy."""

    ttft_s: Mapping[int, float]
    tpot_s: Mapping[int, float]
    batch: float
    busy: float
    stable: bool  # False: more arrives than can be served; the percentiles then say little


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
    points = np.geomspace(1.0, max(2.0, load.most), BATCHES)
    step_times = serve_s(sizes, replace(setup, batch=points), hardware, constant)
    steps = np.broadcast_to(total(step_times["decode"]), points.shape)
    first_s = float(np.broadcast_to(total(step_times["prefill"]), points.shape)[0])
    work_s = first_s - float(np.broadcast_to(step_times["prefill"]["launch"], points.shape)[0])
    output, rate = float(setup.output), load.arrival_per_s
    busy_prefill = rate * (first_s if load.apart else work_s)
    free = 1.0 if load.apart else max(1 - FULL, 1 - busy_prefill)
    batch = 1.0
    for _ in range(ROUNDS):  # Little 1961: in flight = rate x stay
        step = float(np.interp(batch, points, steps)) / free
        batch = 0.5 * batch + 0.5 * min(load.most, max(1.0, rate * (first_s + output * step)))
    most_per_s = load.most / (output * steps[-1] / free + first_s)
    stable = busy_prefill < FULL and rate < FULL * most_per_s
    ttft, tpot = _replay(points, steps / free, first_s, output, load)
    return Felt(
        ttft_s={p: float(np.percentile(ttft, p)) for p in PERCENTILES},
        tpot_s={p: float(np.percentile(tpot, p)) for p in PERCENTILES},
        batch=float(batch),
        busy=float(min(1.0, rate / most_per_s)),
        stable=bool(stable),
    )


def _replay(
    points: np.ndarray, steps: np.ndarray, first_s: float, output: float, load: Load
) -> tuple[np.ndarray, np.ndarray]:
    """TTFT and TPOT of each request: prefills queue (Lindley 1952), tokens share the steps of the batch."""
    chance = np.random.default_rng(0)
    shape = 1 / max(load.burstiness, 1e-6)
    gaps = chance.gamma(shape, 1 / (shape * load.arrival_per_s), REQUESTS)
    sigma = np.sqrt(np.log1p(load.unequal))
    prompts, outputs = np.exp(chance.normal(-(sigma**2) / 2, sigma, (2, REQUESTS)))
    served = first_s * prompts
    waited = np.cumsum(np.append(0.0, served[:-1] - gaps[1:]))
    waited = waited - np.minimum(0.0, np.minimum.accumulate(waited))
    arrived = np.cumsum(gaps)
    begun = arrived + waited + served + load.moved_s
    tpot = np.full(REQUESTS, float(np.interp(1.0, points, steps)))
    for _ in range(4):
        ended = begun + outputs * output * tpot
        middle = (begun + ended) / 2
        flying = np.searchsorted(np.sort(begun), middle) - np.searchsorted(np.sort(ended), middle)
        tpot = (tpot + np.interp(np.clip(flying, 1, load.most), points, steps)) / 2
    return waited + served + load.moved_s + (0.0 if load.apart else tpot / 2), tpot
