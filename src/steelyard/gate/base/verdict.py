"""What a gate says: checks with value, interval and limit; the cause; the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

CAUSES = (
    "template",
    "system",
    "whitespace",
    "unicode",
    "context",
    "history",
    "tools",
    "sampling",
    "seed",
    "stop",
    "limit",
    "stream",
    "route",
    "cache",
    "bos",
    "adapter",
    "base",
    "precision",
    "generation",
    "tokenizer",
    "usage",
    "weights",
    "answer",
    "logprobs",
    "unknown",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check. `passed` is None where it is undecided."""

    name: str
    passed: bool | None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    example: str | None = None

    def as_json(self) -> dict[str, Any]:
        fields = ("name", "passed", "value", "low", "high", "limit", "example")
        return {name: getattr(self, name) for name in fields}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The document of the contract.

    `why`: what proved the cause. `scores`: role -> ability -> share; `details`: the same with intervals,
    rows and errors. `looked_at`: what was asked before the verdict stood, and what could not be asked.
    """

    checks: tuple[Check, ...]
    cause: str | None = None
    why: str | None = None
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    looked_at: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> Literal["passed", "failed", "undecided"]:
        if any(c.passed is False for c in self.checks):
            return "failed"
        return "undecided" if any(c.passed is None for c in self.checks) else "passed"

    def as_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "cause": self.cause,
            "why": self.why,
            "checks": [c.as_json() for c in self.checks],
            "scores": {role: dict(shares) for role, shares in self.scores.items()},
            "details": dict(self.details),
            "looked_at": dict(self.looked_at),
        }

    def worst(self) -> Check | None:
        """The check to name first: the first that failed, else the first that is open."""
        open_ = (c for wanted in (False, None) for c in self.checks if c.passed is wanted)
        return next(open_, None)
