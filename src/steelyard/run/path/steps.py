"""The steps, one row each: what it makes of what, by which call, with which settings.

A further step (merge, evaluate, export) is one more row; order, reuse, fall-back, budget and timing are the
driver's affair. Not here: what a step does.
"""

from __future__ import annotations

from ...artefact import Artefact, Settings
from ...forms import FORMS
from ..planning.ready import Ready
from ..planning.sources import data_settings, input_hashes
from .erased import cleaned
from .gate import gate_settings, judged, judged_service
from .make import by_children
from .publish import published
from .rows import account_rows
from .run import Run
from .step import Step

CHILD = "run.child"  # how a child is started is part of what it makes
SERVICES = ("serving:start", "serving:prepare", "run.service", CHILD)


def clean_settings(ready: Ready) -> list[Settings]:
    recipe, filled = ready.recipe, ready.fill.settings
    return [data_settings(recipe, filled["clean"]) | filled.get("clean_on", {})] if recipe.data else []


def train_inputs(run: Run) -> dict[str, Artefact]:
    """A later stage goes on from the earlier one's model."""
    base = run.artefacts.get("checkpoint", run.artefacts["base"])
    return {"dataset": run.artefacts["dataset"], "base": base}


def trained(run: Run, checkpoint: Artefact) -> None:
    """The rows it taught, and what it had to do otherwise than planned."""
    account_rows(run, checkpoint)
    figures = checkpoint.figures
    if parts := figures.get("micro_batch_parts"):
        text = f"memory was short: each micro-batch was computed in {parts:.0f} parts, of the same step"
        run.note("train.in_parts", text, parts=parts)
    if left_out := figures.get("steps_left_out"):
        text = f"to be done in time the last {left_out:.0f} steps were left out, and the rate fell sooner"
        run.note("train.shorter", text, steps=left_out)
    if skipped := figures.get("steps_skipped"):
        text = f"{skipped:.0f} batches were left out: their loss was no number, or far above all before"
        run.note("train.skipped", text, steps=skipped)


def optional(step: str, ready: Ready) -> list[Settings]:
    """None where the model at hand, in its form, does without."""
    settings = ready.fill.settings
    return [settings[step]] if step in settings else []


def pick_settings(ready: Ready) -> list[Settings]:
    """Those of the training, and the way that is written; none before the gate has refused the first."""
    return [ready.fill.settings["train"][0] | {"way": ready.way}] if ready.way else []


def pick_inputs(run: Run) -> dict[str, Artefact]:
    return {role: run.artefacts[role] for role in ("dataset", "base", "tried")}


def heal_inputs(run: Run) -> dict[str, Artefact]:
    """What was pruned learns from what it was cut from."""
    roles = {"dataset": "dataset", "base": "pruned", "teacher": "checkpoint"}
    return {name: run.artefacts[role] for name, role in roles.items()}


def qat_inputs(run: Run) -> dict[str, Artefact]:
    roles = {"dataset": "dataset", "teacher": "checkpoint"}
    base = run.artefacts.get("healed", run.artefacts["checkpoint"])
    return {name: run.artefacts[role] for name, role in roles.items()} | {"base": base}


def compress_inputs(run: Run) -> dict[str, Artefact]:
    calibrated = FORMS[run.ready.form].calibrated
    rows = {"dataset": run.artefacts["dataset"]} if calibrated else {}
    return {"checkpoint": run.checkpoint, **rows}


def gate_inputs(run: Run) -> dict[str, Artefact]:
    """Of a model that was pruned or learnt its rounding too: `whole`, whose scores count as the tuned ones,
    and `pruned`, what healing began from."""
    inputs = {role: run.artefacts[role] for role in ("base", "checkpoint", "compressed", "dataset")}
    if run.checkpoint is run.artefacts["checkpoint"]:
        return inputs
    pruned = {role: run.artefacts[role] for role in ("pruned",) if role in run.artefacts}
    return inputs | pruned | {"whole": run.artefacts["checkpoint"], "checkpoint": run.checkpoint}


def sized(run: Run, compressed: Artefact) -> None:
    """What the form came to, beside the other forms."""
    run.attempt.hash = compressed.hash
    run.attempt.measured["size_bytes"] = compressed.figures.get("bytes", float(compressed.bytes))


STEPS = (
    Step(
        name="clean",
        do=cleaned,
        call="data:clean",
        enters=("data:clean", CHILD),
        settings=clean_settings,
        inputs=lambda run: {"base": run.artefacts["base"]},
        hashes=lambda run, settings: input_hashes(settings),
        makes="dataset",
        isa=False,
        others="cluster:on_nodes",
        then=account_rows,
    ),
    Step(
        name="train",
        do=by_children,
        call="training:train",
        enters=("training:train", CHILD),
        settings=lambda ready: list(ready.fill.settings["train"]),
        inputs=train_inputs,
        makes="checkpoint",
        resumes=True,
        instead="base",
        then=trained,
    ),
    Step(
        name="pick",
        do=by_children,
        call="training:pick",
        enters=("training:pick", CHILD),
        settings=pick_settings,
        inputs=pick_inputs,
        makes="checkpoint",
        then=account_rows,
    ),
    Step(
        name="prune",
        do=by_children,
        call="compression:prune",
        enters=("compression:prune", CHILD),
        settings=lambda ready: optional("prune", ready),
        inputs=lambda run: {role: run.artefacts[role] for role in ("checkpoint", "dataset")},
        makes="pruned",
    ),
    Step(
        name="heal",
        do=by_children,
        call="training:heal",
        enters=("training:heal", CHILD),
        settings=lambda ready: optional("heal", ready),
        inputs=heal_inputs,
        makes="healed",
        resumes=True,
    ),
    Step(
        name="qat",
        do=by_children,
        call="training:qat",
        enters=("training:qat", CHILD),
        settings=lambda ready: optional("qat", ready),
        inputs=qat_inputs,
        makes="requantised",
        resumes=True,
    ),
    Step(
        name="compress",
        do=by_children,
        call="compression:compress",
        enters=("compression:compress", CHILD),
        settings=lambda ready: [ready.fill.settings["compress"]],
        inputs=compress_inputs,
        makes="compressed",
        then=sized,
    ),
    Step(
        name="gate",
        do=judged,
        enters=(
            "gate:judge",
            "gate:exact_reference",
            "serving:start",
            "serving:prepare",
            CHILD,
            "run.service",
        ),
        settings=lambda ready: [gate_settings(ready)] if ready.fill.settings["train"] else [],
        inputs=gate_inputs,
        hashes=lambda run, settings: judged_service(run),
        makes="verdict",
    ),
    Step(name="serve", do=published, settings=lambda ready: [ready.fill.settings["serve"]]),
)


def step_of(name: str) -> Step:
    return next(step for step in STEPS if step.name == name)
