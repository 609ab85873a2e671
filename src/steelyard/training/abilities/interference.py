"""Short probes before a training of several abilities: each is trained alone, all are looked at.

The result is a matrix, trained x scored: by which share the loss of the scored ability's held-out rows
changed, with an interval. It is the affinity of Fifty et al. 2021 (arXiv 2109.04617), 1 - loss after /
loss before, with its sign turned, over a probe in place of one step; tasks that harm each other are
better trained apart (Standley et al. 2020, arXiv 1905.07553). The probes also tell what a training of an
ability alone would reach: the references of steering/mix.py.

    interference.json   {"steps", "rows": {scored: n}, "before": {scored: {"loss", "right"}},
                         "after": {trained: {scored: {"loss", "right", "change", "low", "high"}}},
                         "half": {trained: loss}, "tokens": {trained: n}}

Kept in the scratch after each probe: a killed run goes on with the next one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist, fmean
from typing import Any

from steelyard.artefact import Draft, Scratch, Settings, Watch

from ..engines.protocol import TrainJob
from ..loop import Loop, settle
from ..packing import schedule
from ..rows import Rows
from ..steering.looks import GENERAL, Held, Look, RowLook, look_at, loss_of, right_of
from ..steering.mix import by_ability
from ..trainable import trainable

FILE = "interference.json"
MOST_EXPONENT = 0.5  # of the power law: above it a loss only learns the form of an answer yet
CONFIDENCE = 0.95
# Words of a stage that say what is looked at and kept: a probe has its own.
OF_THE_STAGE = (
    *("eval_steps", "val_size", "load_best_model_at_end", "early_stopping_patience", "save_steps"),
    *("save_total_limit", "warmup_steps"),
)


def interference(job: TrainJob, held: Held, out: Draft, watch: Watch) -> dict[str, Any]:
    """Probe each ability of the job's rows; the document, also of what an earlier attempt has probed."""
    settle(job.settings["threads"])
    abilities = by_ability(job.rows.examples)
    document = _earlier(out.scratch)
    before = None
    for number, ability in enumerate(abilities):
        if ability in document.get("after", {}):
            continue
        loop = probe_loop(job, ability, held, number, out, watch)
        watch.log("train.evaluating", step=0)
        before = before or look_at(loop.network, held)
        document = document or _begun(before, loop)
        loop.restore()
        loop.run()
        watch.log("train.evaluating", step=loop.done)
        add(document, ability, before, look_at(loop.network, held), loop)
        out.scratch.write(FILE, json.dumps(document, sort_keys=True).encode())
        loop.out.scratch.remove()
        watch.log("train.probed", ability=ability, steps=loop.done)
    return document


def _earlier(scratch: Scratch) -> dict[str, Any]:
    path = scratch.read(FILE)
    return json.loads(path.read_bytes()) if path else {}


def probe_loop(job: TrainJob, ability: str, held: Held, number: int, out: Draft, watch: Watch) -> Loop:
    """The loop of a probe, before its first step: the model as it stands, and the rows of one ability."""
    settings = probe_settings(job.settings)
    examples = by_ability(job.rows.examples)[ability]
    plan = schedule([len(example.ids) for example in examples], settings)
    network, learnt = trainable(job.base, settings)
    scratch = Scratch(out.scratch.folder / f"probe-{number}", out.scratch.keys)
    own = {ability: held[ability]} if ability in held else {}
    rows = Rows(examples=examples, names=job.rows.names)
    return Loop(
        network, learnt, rows, plan, settings, replace(out, scratch=scratch), watch, held=own, bar="probe"
    )


def probe_settings(settings: Settings) -> dict[str, Any]:
    """A constant rate: a probe is the beginning of a training, not a short one."""
    own = {word: value for word, value in settings.items() if word not in OF_THE_STAGE}
    steps = settings["steer"]["probe_steps"]
    return own | {
        **{"mix": {}, "max_steps": steps, "eval_steps": max(1, steps // 2)},
        **{"lr_scheduler_type": "constant_with_warmup", "warmup_ratio": 0.1, "checkpoint_steps": 10**9},
    }


def _begun(before: Look, loop: Loop) -> dict[str, Any]:
    return {
        "steps": len(loop.plan.steps),
        "rows": {scored: len(rows) for scored, rows in before.items()},
        "before": {s: {"loss": loss_of(rows), "right": right_of(rows)} for s, rows in before.items()},
        **{"after": {}, "half": {}, "tokens": {}},
    }


def add(document: dict[str, Any], trained: str, before: Look, after: Look, loop: Loop) -> None:
    """The row of one trained ability."""
    document["after"][trained] = {
        scored: {"loss": loss_of(rows), "right": right_of(rows), **change(before[scored], rows)}
        for scored, rows in after.items()
    }
    half = [point["ability_loss"] for point in loop.curve if "ability_loss" in point]
    if half and trained in half[0]:
        document["half"][trained] = half[0][trained]
    document["tokens"][trained] = sum(int(point["tokens"]) for point in loop.curve)


def change(before: Sequence[RowLook], after: Sequence[RowLook]) -> dict[str, float]:
    """{"change", "low", "high"}: of the loss, as a share of the loss before; rows pair.

    The interval is that of a ratio of means (Cochran 1977, section 6.4) at CONFIDENCE, Student's.
    """
    base = [row.loss for row in before]
    gaps = [row.loss - old for row, old in zip(after, base, strict=True)]
    count, mean = len(gaps), max(fmean(base), 1e-9)
    ratio = fmean(gaps) / mean
    left = [gap - ratio * old for gap, old in zip(gaps, base, strict=True)]
    half = (
        student(max(1, count - 1)) * math.sqrt(sum(e * e for e in left) / (count * max(1, count - 1))) / mean
    )
    return {"change": ratio, "low": ratio - half, "high": ratio + half}


def student(freedom: int) -> float:
    """Student's quantile of a two-sided interval at CONFIDENCE (Abramowitz and Stegun 26.7.5, two terms)."""
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


# ------------------------------------------------------------------ what follows from it


def expected(document: Mapping[str, Any], ability: str, tokens: float) -> float:
    """The loss that a training of this ability alone would reach with so many tokens: a power law through the
    probe's half and its end. Infinite, so that nothing is behind it, for an ability without held-out rows."""
    own = document["after"].get(ability, {}).get(ability)
    if own is None:
        return math.inf
    half, end = document["half"].get(ability, own["loss"]), max(own["loss"], 1e-9)
    exponent = min(MOST_EXPONENT, max(0.0, math.log2(max(half, 1e-9) / end)))
    return float(end * max(1.0, tokens / max(1, document["tokens"][ability])) ** -exponent)


def proposal(document: Mapping[str, Any]) -> dict[str, Any]:
    """What to train together: abilities of a group harm none of it, as far as the intervals show.

    {"together": [[...], ...], "harms": [[trained, scored], ...], "helps": [...]}
    """
    cells = [
        (trained, scored, cell)
        for trained, row in document["after"].items()
        for scored, cell in row.items()
        if scored != trained
    ]
    harms = [[trained, scored] for trained, scored, cell in cells if cell["low"] > 0]
    helps = [[trained, scored] for trained, scored, cell in cells if cell["high"] < 0]
    groups: list[list[str]] = []
    for ability in document["after"]:
        fits = [g for g in groups if not any([ability, o] in harms or [o, ability] in harms for o in g)]
        if fits:
            fits[0].append(ability)
        else:
            groups.append([ability])
    return {"together": groups, "harms": harms, "helps": helps, "general": _general(document)}


def _general(document: Mapping[str, Any]) -> dict[str, float]:
    """By trained ability, the factor of the perplexity on general text."""
    return {
        trained: math.exp(row[GENERAL]["loss"] - document["before"][GENERAL]["loss"])
        for trained, row in document["after"].items()
        if GENERAL in row
    }
