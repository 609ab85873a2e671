"""What a training that has come to its end says of its course, whichever engine ran it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median


def course_figures(curve: Sequence[Mapping[str, float]], step_s: Sequence[float]) -> dict[str, float]:
    """From a point a step; SI units. Times are of this attempt's steps, the first left out."""
    timed = step_s[1:] or step_s or [0.0]
    trained = sum(point["tokens"] for point in curve[-len(timed) :])
    looks = [point["eval_loss"] for point in curve if "eval_loss" in point]
    return ({"eval_loss": min(looks)} if looks else {}) | {
        "steps": len(curve),
        "step_s": median(timed),
        "tokens": sum(point["tokens"] for point in curve),
        "loss": curve[-1]["loss"],
        "tokens_per_s": trained / max(sum(timed), 1e-9),
    }
