"""Recorded hosts: healthy ones, and broken ones laid over them. Read by the tests and by bench/doctor.py.

A broken one holds the page that reports it (`source`), words of that page (`quote`), whether they stand in
the recording itself (`verbatim`), the healthy host it is laid `on`, and the one finding it gives (`cause`).
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
KEPT_NONE = ("cuda", "hip", "xpu")  # None there is a value: not built for it


def load(kind: str) -> dict[str, dict[str, Any]]:
    """{name: what the file holds} of healthy, broken or together."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((HERE / kind).glob("*.json"))
    }


def laid_over(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """The base with the overlay's values; None takes a key away."""
    result = copy.deepcopy(base)
    for key, value in overlay.items():
        if value is None and key not in KEPT_NONE:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = laid_over(result[key], value)
        else:
            result[key] = value
    return result


def broken_host(case: dict[str, Any]) -> dict[str, Any]:
    """The snapshot of a broken host."""
    return laid_over(load("healthy")[case["on"]]["snapshot"], case["overlay"])


def wrong(findings: Any) -> list[str]:
    """Names of findings that are not ok."""
    return [finding.name for finding in findings if finding.level != "ok"]
