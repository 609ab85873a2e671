"""Published serving rows: setup in, the row's metric out."""

from __future__ import annotations

from typing import Any

import numpy as np

from .cells import Row, needed, number
from .inference import serve_s
from .sizes import USABLE_MEMORY, total

METRICS = {"output_tokens_per_s": "tokens/s", "ms_per_output_token": "ms", "ttft_ms": "ms"}
OFFERED_BATCH = 256  # requests in flight when all are offered at once (the default of vLLM and its kin)


def setup_of(row: Row, sizes: dict[str, float], hardware: dict[str, float]) -> dict[str, float]:
    devices = needed(row, "devices")
    t = number(row, "tp") or 1.0
    p = number(row, "pp") or (devices if not row.get("tp") else 1.0)
    prompt = number(row, "prompt_len", 512.0) or 512.0
    output = number(row, "output_len", 128.0) or 128.0
    bits = number(row, "weight_bits") or 16.0
    asked = number(row, "concurrency") or number(row, "micro_batch") or OFFERED_BATCH
    room = USABLE_MEMORY * hardware["memory"] * t * p - sizes["params"] * bits / 8
    fits = room / (sizes["kv_bytes"] * (prompt + output / 2))
    # A published run did run: where the sum says it cannot, the offload or swap is not known.
    return {
        "t": t,
        "p": p,
        "batch": max(1.0, min(asked, fits)),
        "prompt": prompt,
        "output": max(1.0, output),
        "weight_bits": bits,
        "replicas": max(1.0, devices / (t * p)),
    }


def values_of(table: Any, constant: dict[str, np.ndarray]) -> np.ndarray:
    setup = table.setup
    parts = serve_s(table.sizes, setup, table.hardware, constant)
    prefill = parts["prefill"]["compute"] * setup.batch + parts["prefill"]["launch"] + parts["prefill"]["tp"]
    step = total(parts["decode"])
    shared = np.where(table.decode_only, 0.0, (setup.batch - 1) * parts["prefill"]["compute"] / setup.output)
    each = {
        "output_tokens_per_s": table.replicas * setup.batch * setup.output / (prefill + setup.output * step),
        "ms_per_output_token": 1e3 * (step + shared),
        "ttft_ms": 1e3 * prefill,
    }
    return np.select([table.metrics == name for name in each], list(each.values()))
