"""Requests under way on a service, for whole arrays of candidates: always in flight, or arriving.

`columns` are candidates as flat arrays (replicas, apart: 1 where prefill has pools of its own, batch), `one`
gives the parts of a prefill and of a decode step at a batch. Not here: the time of one step (inference.py),
percentiles by a replay (load.py), which candidate is taken (serve_search.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .cost import DISK_BYTES_PER_S, START_S
from .load import UNEQUAL, waiting_s
from .request import Request
from .sizes import Array, total

MOST_BATCH = 1024
PREFILL_LOAD = 0.7  # of its time that a pool for prefill alone is busy
ROUNDS = 24  # of the fixed point of the batch
STABLE = 0.95  # of the engine's time that prefill may take


def closed(request: Request, columns: Mapping[str, np.ndarray], one: Any, moved_s: Array) -> dict[str, Any]:
    """Requests always in flight: a cycle of a replica is its prefills and its steps.

    With prefill apart, as many replicas of it as the rate of answers keeps busy.
    """
    apart, output = columns["apart"], float(request.output_tokens)
    batch = columns["batch"] if request.in_batch else request.users / columns["replicas"]
    batch = np.maximum(1.0, batch)
    prefill_parts, decode_parts = one(batch)
    prefill, step = total(prefill_parts), total(decode_parts)
    shared = (1 - apart) * batch * prefill
    cycle = output * step + shared + apart * (prefill + moved_s)
    answers_per_s = columns["replicas"] * batch / cycle
    first = prefill + (batch > 1) * (1 - apart) * step + moved_s
    tpot = step + (1 - apart) * (batch - 1) * prefill / output
    rounds = request.tokens / (columns["replicas"] * batch * output)
    parts = {f"prefill_{k}": rounds * v * (1 - apart) * batch for k, v in prefill_parts.items()}
    parts |= {f"prefill_{k}": parts[f"prefill_{k}"] + rounds * apart * v for k, v in prefill_parts.items()}
    parts |= {f"decode_{k}": rounds * output * v for k, v in decode_parts.items()}
    parts["transfer"] = rounds * apart * moved_s
    parts["load"] = load_s(request, columns) if request.in_batch else 0.0 * rounds
    return {
        "batch": batch,
        "ttft_s": first,
        "tpot_s": tpot,
        "wall_s": rounds * cycle + parts["load"],
        "parts": parts,
        "prefill_replicas": apart * np.ceil(answers_per_s * prefill / PREFILL_LOAD),
        "stable": np.ones(len(batch), bool),
    }


def arrivals(request: Request, columns: Mapping[str, np.ndarray], one: Any, moved_s: Array) -> dict[str, Any]:
    """Requests that arrive: the batch is the fixed point of rate x stay (Little 1961).

    Prefill chunks take their share of an engine's time from decoding, unless they stand apart.
    """
    apart, output, rate = columns["apart"], float(request.output_tokens), float(request.arrival_per_s or 0.0)
    each = rate / columns["replicas"]
    batch = np.ones(len(apart))
    for _ in range(ROUNDS):
        prefill_parts, decode_parts = one(batch)
        prefill, step = total(prefill_parts), total(decode_parts)
        pools = apart * np.ceil(rate * prefill / PREFILL_LOAD)
        into = np.where(apart > 0, rate / np.maximum(1.0, pools), each)
        service = prefill + (1 - apart) * step / 2
        tpot = step / (1 - np.minimum(each * prefill * (1 - apart), STABLE))
        stay = (1 - apart) * prefill + output * tpot
        batch = np.clip(0.5 * batch + 0.5 * each * stay, 1e-3, 2 * MOST_BATCH)
    busy, wait = into * service, waiting_s(into, service, UNEQUAL, request.burstiness, STABLE)
    seconds = request.tokens / (rate * output)
    share = np.minimum(1.0, each * prefill * (1 - apart))
    idle = np.maximum(0.0, 1.0 - share - each * output * step / np.maximum(batch, 1.0))
    used = 1.0 - share - idle
    parts = {f"prefill_{k}": seconds * share * v / prefill for k, v in prefill_parts.items()}
    parts |= {f"decode_{k}": seconds * used * v / step for k, v in decode_parts.items()}
    parts["waiting"] = seconds * idle
    return {
        "batch": batch,
        "ttft_s": quantile_s(wait, busy, request.slo.get("percentile", 50.0)) + service + moved_s,
        "tpot_s": tpot,
        "wall_s": np.full(len(apart), seconds),
        "parts": parts,
        "prefill_replicas": pools,
        "stable": (busy < STABLE) & (batch < MOST_BATCH) & (each * prefill * (1 - apart) < STABLE),
    }


def load_s(request: Request, columns: Mapping[str, np.ndarray]) -> Array:
    """Seconds until an engine has its weights from the disk."""
    return START_S + request.shape.params * columns["weight_bits"] / 8 / DISK_BYTES_PER_S


def quantile_s(mean_wait_s: Array, busy: Array, percentile: float) -> Array:
    """A percentile of the wait: none with probability 1 - busy, else exponential (Kingman 1962)."""
    late = np.maximum(0.0, np.log(np.maximum(busy, 1e-12) / (1 - percentile / 100)))
    return late * mean_wait_s / np.maximum(busy, 1e-12)
