"""Requests under way on a service, for whole arrays of candidates: always in flight, or arriving.

`columns` are candidates as flat arrays (replicas, apart: 1 where prefill has pools of its own, batch),
`prefill_parts` those of one prompt's time, `decode` gives those of a step at a batch. Not here: the time of
one step (inference.py), percentiles by a replay (load.py), which candidate is taken (serve_search.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..job.request import Request
from ..physics.load import UNEQUAL, waiting_s
from ..physics.sizes import Array, total

Parts = Mapping[str, Array]
MOST_BATCH = 1024  # requests that one engine runs at once: the most that vLLM takes by default
PREFILL_LOAD = 0.7  # of its time that a pool for prefill alone is busy
ROUNDS = 24  # of the fixed point of the batch
STABLE = 0.95  # of the engine's time that prefill may take


def closed(
    request: Request,
    columns: Mapping[str, np.ndarray],
    prefill_parts: Parts,
    decode: Callable[[Array], Parts],
    moved_s: Array,
) -> dict[str, Any]:
    """Requests always in flight: a cycle of a replica is its prefills and its steps.

    With prefill apart, as many replicas of it as the rate of answers keeps busy. Who is answered asks again
    at once. Answers are not equally long, so questions are spread over the time of one: a new question finds
    the others where they are on average (the arrival theorem: Sevcik and Mitrani 1981, Reiser and Lavenberg
    1980), and waits as in a queue that they alone load (`waiting_s`), at most for all of them. A load that is
    offered all at once and stays in step, as benchmarks do, waits longer: `values_of` in inference_rows.py.
    """
    apart, output, replicas = columns["apart"], float(request.output_tokens), columns["replicas"]
    batch = np.maximum(1.0, _batch(request, columns))
    decode_parts = decode(batch)
    prefill, step = total(prefill_parts), total(decode_parts)
    shared = (1 - apart) * batch * prefill
    cycle = output * step + shared + apart * (prefill + moved_s)
    pools = np.ceil(apart * replicas * batch / cycle * prefill / PREFILL_LOAD)
    others = np.where(apart > 0, (replicas * batch - 1) / np.maximum(1.0, pools), batch - 1)
    busy = others * prefill / cycle
    wait = waiting_s(others / cycle, prefill, UNEQUAL, burstiness=1.0, most=1.0)
    first = prefill + (batch > 1) * (1 - apart) * step + moved_s
    tpot = step + (1 - apart) * ((batch - 1) * prefill - wait) / output
    in_flight = replicas * batch if request.in_batch else float(request.users)
    rounds = request.tokens / (in_flight * output)
    rounds = np.maximum(1.0, rounds) if request.in_batch else rounds
    return {
        "batch": batch,
        "felt": felt(request, wait, busy, first, tpot, others * prefill),
        "wall_s": rounds * cycle,
        "parts": _prefill_parts(rounds, apart, batch, prefill_parts)
        | {f"decode_{k}": rounds * output * v for k, v in decode_parts.items()}
        | {"transfer": rounds * apart * moved_s},
        "prefill_replicas": pools,
        "stable": batch <= MOST_BATCH,
    }


def _prefill_parts(rounds: Array, apart: Array, batch: Array, prefill_parts: Parts) -> dict[str, Array]:
    """Seconds of the prompts: of the whole batch in each round, of one where a pool is theirs alone."""
    together = {f"prefill_{k}": rounds * v * (1 - apart) * batch for k, v in prefill_parts.items()}
    return {f"prefill_{k}": together[f"prefill_{k}"] + rounds * apart * v for k, v in prefill_parts.items()}


def _batch(request: Request, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Requests in flight on the fullest replica: no more than there are."""
    if not request.in_batch:
        return np.ceil(request.users / columns["replicas"])
    return np.minimum(columns["batch"], np.ceil(request.requests / columns["replicas"]))


def arrivals(
    request: Request,
    columns: Mapping[str, np.ndarray],
    prefill_parts: Parts,
    decode: Callable[[Array], Parts],
    moved_s: Array,
) -> dict[str, Any]:
    """Requests that arrive: the batch is the fixed point of rate x stay (Little 1961).

    Prefill chunks take their share of an engine's time from decoding, unless they stand apart.
    """
    apart, output, rate = columns["apart"], float(request.output_tokens), float(request.arrival_per_s or 0.0)
    each = rate / columns["replicas"]
    batch, prefill = np.ones(len(apart)), total(prefill_parts)
    pools = apart * np.ceil(rate * prefill / PREFILL_LOAD)
    into = np.where(apart > 0, rate / np.maximum(1.0, pools), each)
    for _ in range(ROUNDS):
        decode_parts = decode(batch)
        step = total(decode_parts)
        service = prefill + (1 - apart) * step / 2
        tpot = step / (1 - np.minimum(each * prefill * (1 - apart), STABLE))
        stay = (1 - apart) * prefill + output * tpot
        batch = np.clip(0.5 * batch + 0.5 * each * stay, 1e-3, 2 * MOST_BATCH)
    busy, wait = into * service, waiting_s(into, service, UNEQUAL, request.burstiness, STABLE)
    seconds = request.tokens / (rate * output)
    share = np.minimum(1.0, each * prefill * (1 - apart))
    idle = np.maximum(0.0, 1.0 - share - each * output * step / np.maximum(batch, 1.0))
    parts = {f"prefill_{k}": seconds * share * v / prefill for k, v in prefill_parts.items()}
    parts |= {f"decode_{k}": seconds * (1.0 - share - idle) * v / step for k, v in decode_parts.items()}
    parts["waiting"] = seconds * idle
    return {
        "batch": batch,
        "felt": felt(request, wait, busy, service + moved_s, tpot),
        "wall_s": np.full(len(apart), seconds),
        "parts": parts,
        "prefill_replicas": pools,
        "stable": (busy < STABLE) & (batch < MOST_BATCH) & (each * prefill * (1 - apart) < STABLE),
    }


def felt(
    request: Request, wait_s: Array, busy: Array, served_s: Array, tpot_s: Array, most_s: Array = np.inf
) -> dict[tuple[str, float], Array]:
    """TTFT at each percentile that is asked for or told, and the mean TPOT as that of each of them.

    `most_s`: the longest wait that there can be.
    """
    percentiles = sorted({request.percentile, *(p for _, p in request.limits)})
    first = {("ttft_s", p): np.minimum(quantile_s(wait_s, busy, p), most_s) + served_s for p in percentiles}
    return first | {("tpot_s", p): tpot_s for p in percentiles}


def quantile_s(mean_wait_s: Array, busy: Array, percentile: float) -> Array:
    """A percentile of the wait: none with probability 1 - busy, else exponential (Kingman 1962)."""
    late = np.maximum(0.0, np.log(np.maximum(busy, 1e-12) / (1 - percentile / 100)))
    return late * mean_wait_s / np.maximum(busy, 1e-12)
