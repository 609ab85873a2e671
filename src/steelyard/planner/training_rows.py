"""Published training rows: setup in, the row's metric out."""

from __future__ import annotations

from typing import Any

import numpy as np

from .cells import Row, needed, number
from .sizes import forward_flops, total
from .training import RECOMPUTE, train_step_s

METRICS = {
    "tokens_per_s_per_device": "tokens/s/device",
    "tflops_per_device": "TFLOPS/device",
    "step_time_s": "s",
    "mfu": "fraction",
    "samples_per_s": "samples/s",
}


def setup_of(row: Row) -> dict[str, float]:
    devices = needed(row, "devices")
    t, p = number(row, "tp") or 1.0, number(row, "pp") or 1.0
    d = number(row, "dp") or max(1.0, devices / (t * p))
    micro = number(row, "micro_batch") or 1.0
    return {
        "devices": devices,
        "t": t,
        "p": p,
        "micro_batch": micro,
        "global_batch": number(row, "global_batch") or micro * d * max(8.0, 4 * p),
        "seq_len": needed(row, "seq_len"),
        "recompute": float(RECOMPUTE.get(row.get("recompute") or "none", 0)),
        "zero": number(row, "zero_stage", 1.0) or 0.0,
        "low_precision": float((row.get("precision") or "") in ("fp8", "fp4")),
        "lora": float("lora" in (row.get("framework") or "").lower()),
    }


def values_of(table: Any, constant: dict[str, np.ndarray]) -> np.ndarray:
    setup = table.setup
    step = total(train_step_s(table.sizes, setup, table.hardware, constant))
    tokens = setup.global_batch * setup.seq_len
    rate = tokens / step / setup.devices
    model_flops = 3 * forward_flops(table.sizes) * rate  # what papers call model FLOPs: no recomputation
    each = {
        "tokens_per_s_per_device": rate,
        "tflops_per_device": model_flops / 1e12,
        "step_time_s": step,
        "mfu": model_flops / table.peak16,
        "samples_per_s": setup.global_batch / step,
    }
    return np.select([table.metrics == name for name in each], list(each.values()))
