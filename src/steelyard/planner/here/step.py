"""What one step takes, and what processes of any step take before they hold a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Resident bytes and seconds of processes that hold no model yet, measured on a quiet Linux machine with
# Python 3.11, torch 2.13 and OpenVINO 2026.4; libraries are files mapped in and hardly depend on the CPU.
UP_BYTES, UP_HTTP_BYTES = 72e6, 95e6  # what no other process shares with `up`; with client and gate
WORKER_BYTES, WORKER_S = 30e6, 0.5
TOKENIZER_BYTES = 30e6
FRONT_BYTES, FRONT_S = 65e6, 0.45  # 84 MB resident, Python itself shared with `up`
TORCH_BYTES = 320e6


@dataclass(frozen=True, slots=True)
class Step:
    """Before the ledger: the parts of its time, seconds, and all its figures by name."""

    parts: Mapping[str, float]
    figures: Mapping[str, float]

    @staticmethod
    def of(parts: Mapping[str, float], peak_rss_bytes: float, **more: float) -> Step:
        return Step(parts, {"wall_s": sum(parts.values()), "peak_rss_bytes": peak_rss_bytes, **more})
