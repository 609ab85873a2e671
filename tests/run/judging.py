"""Verdicts that a test gives in the gate's place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from steelyard.hardware import Calibration

EMPTY = Calibration(fingerprint="f", rows=(), taken=(), skipped={}, measured_s=0, path="")


def check(name: str, passed: bool | None, value: float = 0.5, limit: float = 0.9) -> dict[str, Any]:
    return {
        "name": name,
        "passed": passed,
        "value": value,
        "low": None,
        "high": None,
        "limit": limit,
        "example": None,
    }


def verdict(tuned: float, served: float, *checks: dict[str, Any]) -> dict[str, Any]:
    scores = {"base": {"echo": 0.1}, "tuned": {"echo": tuned}, "served": {"echo": served}}
    bad = [c for c in checks if c["passed"] is not True]
    return {"verdict": "failed" if bad else "passed", "cause": None, "checks": list(checks), "scores": scores}


GOOD = verdict(0.95, 0.95, check("min/echo", True, 0.95))
FORM_FAILS = verdict(0.95, 0.5, check("against_tuned/echo", False, -0.45, -0.02))
MODEL_FAILS = verdict(0.4, 0.4, check("min/echo", False, 0.4, 0.9))


class Judged(list[str]):
    """What was judged, "model/form" each; `says` gives the verdicts."""

    def __init__(self) -> None:
        super().__init__()
        self.says: dict[str, dict[str, Any]] = {}
        self.ask: Callable[[str], None] = lambda url: None  # what a test wants of the candidate
