"""Predicted beside measured, into the ledger. A ledger that cannot be written ends no run."""

from __future__ import annotations

from typing import Any

from ...artefact import Figures, Settings
from ...errors import Problem
from ...hardware import UNDISTURBED
from ...ledger import Row
from ..planning.engines import untested_of
from ..planning.prepare import ledger
from ..planning.ready import Ready
from .run import Run


def learn(
    run: Run,
    step: str,
    settings: Settings,
    predicted: Figures,
    measured: Figures,
    share: float,
    part: int | None = None,
) -> None:
    """One row a step, of a training one a stage (`part`); the settings stand beside what the prediction knew,
    and the share of the cores that it had: with less than nearly all of them it is kept and teaches
    nothing."""
    features = run.ready.local.features(step, part) | {"settings": settings, "share": round(share, 3)}
    if share < UNDISTURBED:
        run.watch.log("step.disturbed", step=step, share_of_cores=round(share, 3))
    own = dict(measured)
    if step == "serve" and run.outcome.record("gate").state != "done":
        own.pop("peak_rss_bytes", None)  # only after a gate is the cache as full as was predicted
    device = untested_of(settings) if step == "train" else None
    write(run, step, features, predicted, own, f"untested: {device}" if device else "here")


def learn_kept(run: Run) -> None:
    """What a pruned model has kept of the tuned one's scores, by the verdict: beside what was expected."""
    expected = run.ready.local.steps.get("heal", {}).get("score_kept")
    before, after = (run.outcome.scores.get(role) or {} for role in ("tuned", "served"))
    if expected is None or not after or not sum(before.values()):
        return
    kept = {"score_kept": sum(after.values()) / sum(before[ability] for ability in after)}
    run.outcome.record("heal").measured |= kept
    features = run.ready.local.features("heal") | {"settings": {"share": run.ready.share}}
    write(run, "heal", features, {"score_kept": expected.value}, kept)


def learn_failed(run: Run) -> None:
    """A form that failed: no times, since a gate may stop early."""
    attempt = run.attempt
    features = {"model": attempt.model, "form": attempt.form, "failed": attempt.failed}
    write(run, "gate", features, attempt.predicted, attempt.measured)


def write(
    run: Run,
    step: str,
    features: dict[str, Any],
    predicted: Figures,
    measured: Figures,
    hardware: str = "here",
) -> None:
    machine = run.ready.machine
    row = Row(
        run=run.ready.id,
        step=step,
        machine=machine.fingerprint,
        features=features,
        predicted=predicted,
        measured=measured,
        versions=dict(machine.versions),
        hardware=hardware,
    )
    try:
        ledger().write(row)
    except (Problem, OSError) as error:
        why = error.message if isinstance(error, Problem) else str(error)
        text = f"the ledger was not written, later plans learn nothing of this run: {why}"
        run.note("ledger.not_written", text, step=step, why=why)


def counted(ready: Ready, predicted: Figures, figures: Figures) -> Figures:
    """What stands beside the predictions, under their keys; time is priced as the plan prices it."""
    priced = figures | {"cost_usd": figures["wall_s"] / 3600 * price_per_h(ready)}
    return {name: float(priced[name]) for name in predicted if name in priced}


def price_per_h(ready: Ready) -> float:
    """US dollars an hour of this machine: the user's price, else its share of the nearest device's."""
    own = ready.fill.price_usd_per_h
    return ready.machine.price_usd_per_h if own is None else own
