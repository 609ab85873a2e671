"""The forms and models of one run: what was expected of each, what each came to, and which failed why.

Pure. Not here: trying them (path/fallback.py), the order of forms (planner), who judges them (gate).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...artefact import Figures
from ...units import show_share

Verdict = Mapping[str, Any]  # the document of gate


@dataclass(slots=True)
class Attempt:
    """One form of one model. State: untried, passed or failed; `turn` counts from 1, None = not in the chain.

    `share`: of the model's parameters, what pruning leaves; None: it is whole; 1: only experts that no row
    reaches are left out.

    Figures are flat: size_bytes, output_tok_s, ttft_s, tpot_s; predicted quality_loss, measured score (mean
    over abilities, a share). `failed` names the first check that failed, `why` says it in words.
    """

    model: str
    form: str | None  # None: a model whose forms are not planned yet
    turn: int | None = None
    state: str = "untried"
    predicted: dict[str, float] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    failed: str | None = None
    why: str | None = None
    hash: str | None = None  # of the compressed artefact
    provenance: dict[str, str] = field(default_factory=dict)  # of each predicted figure
    share: float | None = None
    way: str | None = None  # of a lift, the one that was written after a refusal

    def as_json(self) -> dict[str, Any]:
        names = ("model", "form", "turn", "state", "hash", "predicted", "measured", "scores")
        document = {name: getattr(self, name) for name in (*names, "failed", "why", "provenance")}
        more = {"share": self.share, "way": self.way}
        return document | {name: value for name, value in more.items() if value is not None}

    @property
    def shown(self) -> str:
        """The form, of a pruned model what is left of it, of a lift the way: "int8, pruned to 70 %"."""
        left = "" if self.share is None else f"pruned to {show_share(self.share, 0)}"
        left = "without unreached experts" if self.share == 1 else left
        return ", ".join(part for part in (self.form, left, f"by {self.way}" if self.way else "") if part)

    def passed(self, verdict: Verdict | None) -> None:
        """The gate let it through; None where there is no gate."""
        self.state = "passed"
        self._scored(verdict or {})

    def refused(self, verdict: Verdict) -> None:
        """The gate did not let it through: a check failed, or is undecided."""
        self.state = "failed"
        self._scored(verdict)
        check = first_failing(verdict)
        self.failed = check["name"] if check else None
        self.why = explained(check) if check else verdict.get("cause")

    def _scored(self, verdict: Verdict) -> None:
        self.scores = dict((verdict.get("scores") or {}).get("served") or {})
        if self.scores:
            self.measured["score"] = sum(self.scores.values()) / len(self.scores)


def first_failing(verdict: Verdict) -> Mapping[str, Any] | None:
    """The first check that failed, else the first that is undecided."""
    checks = verdict.get("checks") or []
    return next((c for wanted in (False, None) for c in checks if c["passed"] is wanted), None)


def explained(check: Mapping[str, Any]) -> str:
    """ "min/echo is 0.81, at least 0.9 is asked"; the check's own example where it has no numbers."""
    state = "failed" if check["passed"] is False else "is undecided"
    if check["value"] is None or check["limit"] is None:
        return f"{check['name']} {state}" + (f": {check['example']}" if check.get("example") else "")
    return f"{check['name']} {state}: {check['value']:.4g}, the limit is {check['limit']:.4g}"


def blames_form(verdict: Verdict) -> bool:
    """Could a form that loses less cure every failure? Not where the tuned model itself falls short."""
    open_ = [c for c in verdict.get("checks") or [] if c["passed"] is not True]
    return bool(open_) and all(_curable(c, verdict.get("scores") or {}) for c in open_)


def _curable(check: Mapping[str, Any], scores: Mapping[str, Mapping[str, float]]) -> bool:
    kind, _, ability = check["name"].partition("/")
    if kind == "tuned" or kind.startswith(("general_", "safety_")):
        return False  # of the tuned model in its exact mode: the form has no part in it
    tuned, base = (scores.get(role, {}).get(ability) for role in ("tuned", "base"))
    if kind in ("min", "score", "fits"):
        return tuned is not None and tuned >= check["limit"] and tuned > 0
    if kind == "against_base":
        if tuned is None or base is None:
            return False
        # Limit 0: the base must be beaten, which no form does where the tuned model itself does not.
        return tuned - base >= check["limit"] if check["limit"] < 0 else tuned > base
    return True


def account(frontier: list[Attempt]) -> str:
    """ "int8 failed: against_tuned/echo ...; bf16 failed: ..." of those tried."""
    several = len({a.model for a in frontier}) > 1
    tried = [a for a in frontier if a.state == "failed"]
    return "; ".join(f"{a.model + ' ' if several else ''}{a.shown}: {a.why}" for a in tried)


def added(earlier: list[dict[str, float]], own: dict[str, float]) -> dict[str, float]:
    """A step done several times in one run: its times and prices add up, its memory is the largest."""
    total = dict(own)
    for figures in earlier:
        for name in ("wall_s", "cost_usd"):
            if name in total:
                total[name] += figures.get(name, 0.0)
        if "peak_rss_bytes" in total:
            total["peak_rss_bytes"] = max(total["peak_rss_bytes"], figures.get("peak_rss_bytes", 0.0))
    return total


class Tries:
    """Tries of a step before the one that counts: its times add up over all of them."""

    def __init__(self) -> None:
        self.predicted: dict[str, list[Figures]] = {}
        self.measured: dict[str, list[Figures]] = {}

    def add(self, step: str, predicted: Figures, measured: Figures) -> None:
        self.predicted.setdefault(step, []).append(predicted)
        self.measured.setdefault(step, []).append(measured)

    def put(self, step: str, predicted: Figures, measured: Figures) -> None:
        """A step will be done again; these figures hold all its tries so far."""
        self.predicted[step], self.measured[step] = [predicted], [measured]

    def with_own(self, step: str, predicted: Figures, measured: Figures) -> tuple[Figures, Figures]:
        """The figures of the last try, with those before added."""
        return added(self.predicted.get(step, []), predicted), added(self.measured.get(step, []), measured)

    def last(self, step: str) -> Figures:
        return self.measured.get(step, [{}])[-1]
