"""A piece of work done, or its result reused: found by key, else measured, published, and noted."""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from ...artefact import Artefact, Draft, Figures
from ...errors import CheckFailed, Stopped
from ..child.children import run_step
from ..child.memory import PeakMemory
from ..known import service_sockets
from ..planning.ready import Ready
from ..record.attempts import Attempts
from ..record.workdir import trust_of
from .learn import counted, learn
from .pace import Paced
from .run import Run, predicted, refer
from .step import Again, Step, Work, key_of_work, work_of

OTHERWISE = (
    "micro_batch_parts",
    "steps_skipped",
    "steps_left_out",
)  # figures of a training (training/faults.py)
SHARE = "share_of_cores"  # a figure of an artefact: what others left of them while it was made
RESUMED = "attempts_before"  # likewise, of a training: how many ended early and were gone on from
OF_A_PART = ("step_s", "peak_rss_bytes")  # what a training that was not done as predicted tells all the same


def by_children(run: Run, step: Step) -> Again:
    """Each piece of work of a step in a child process; the last result is the step's."""
    works = step.settings(run.ready)
    if not works:
        skip(run, step)
    for part, settings in enumerate(works):
        later_s = sum(predicted(run.ready, step.name, n)["wall_s"] for n in range(part + 1, len(works)))
        artefact = make(run, step, work_of(run, step, settings), in_child(run, step, settings, later_s), part)
        run.artefacts[step.makes] = artefact
        step.then(run, artefact)
        if part + 1 < len(works):  # its figures add to those of the last
            expected = predicted(run.ready, step.name, part)
            run.tries.add(step.name, expected, counted(run.ready, expected, artefact.figures))
    return ()


def skip(run: Run, step: Step) -> None:
    run.outcome.record(step.name).state = "skipped"
    if step.instead:
        run.artefacts[step.makes] = run.artefacts[step.instead]


def in_child(
    run: Run, step: Step, settings: dict[str, Any], later_s: float = 0.0
) -> Callable[[Draft], Figures]:
    """`later_s`: what the step's own further work will take."""
    recipe, store = run.ready.recipe, run.store
    keys = trust_of(recipe) if store.keys else None
    yields_to = service_sockets if recipe.resources.give_way else None

    def call(draft: Draft) -> Figures:
        inputs, watch = step.inputs(run), Paced(run, later_s) if step.resumes else run.watch
        while True:
            try:
                return run_step(
                    step.call,
                    inputs,
                    draft,
                    store.folder,
                    keys,
                    watch,
                    step.resumes,
                    yields_to,
                    step.others,
                )
            except Stopped as stopped:
                if not isinstance(watch, Paced) or not watch.missed or run.watch.stop:
                    raise
                if not watch.shortens(draft.scratch):
                    raise watch.refusal() from stopped

    return call


def make(
    run: Run, step: Step, work: Work, do: Callable[[Draft], Figures], part: int | None = None
) -> Artefact:
    """The artefact of this work: reused where its key is there, else done now. `part`: which of the step's
    pieces of work it is, from 0."""
    key = key_of_work(run, step, work)
    earlier = run.store.find(step.makes, key)
    if earlier is not None:
        run.watch.log("step.reused", step=step.name, hash=earlier.hash)
        record(run, step, earlier, "reused", part)
        return earlier
    artefact = done(run, step, work, key, do)
    record(run, step, artefact, "done", part)
    if step.others and "ray" in work.settings:
        return artefact  # the time of several hosts teaches nothing of this one
    expected = predicted(run.ready, step.name, part)
    own, share = counted(run.ready, expected, artefact.figures), artefact.figures[SHARE]
    if artefact.figures.get("steps_left_out") or artefact.figures.get(RESUMED):
        own = {name: value for name, value in own.items() if name in OF_A_PART}
    learn(run, step.name, work.own | otherwise(artefact.figures), expected, own, share, part)
    return artefact


def otherwise(figures: Figures) -> Figures:
    """What a step had to do otherwise than its settings say."""
    return {name: figures[name] for name in OTHERWISE if name in figures}


def done(run: Run, step: Step, work: Work, key: str, do: Callable[[Draft], Figures]) -> Artefact:
    """Do it, take its time and memory, publish it."""
    draft = run.store.draft(step.makes, key, step.name, work.settings, work.inputs)
    run.use(draft.scratch.folder)
    refer(run)  # a run that is killed goes on from there: `gc` leaves it
    before, memory = Attempts(draft.scratch) if step.resumes else None, PeakMemory()
    try:
        with memory, before or nullcontext():
            figures = do(draft)
    except CheckFailed:  # a gate that refused took its time all the same
        measured = {"wall_s": memory.wall_s, "peak_rss_bytes": float(memory.bytes)}
        expected = predicted(run.ready, step.name)
        run.tries.add(step.name, expected, counted(run.ready, expected, measured))
        raise
    draft.settings = work.own
    took = {"wall_s": memory.wall_s, "peak_rss_bytes": memory.bytes, SHARE: memory.share}
    if before and before.count:
        took |= {"wall_s": memory.wall_s + before.wall_s, RESUMED: float(before.count)}
    return run.store.publish(
        draft,
        figures | took,
        made_by(run.ready),
        recipe_hash=run.ready.recipe.hash,
        plan_id=run.ready.document["hash"],
        seed=run.ready.recipe.seed,
        **({"reads": dict(work.hashes)} if work.hashes else {}),  # files beside the inputs, by SHA-256
    )


def record(run: Run, step: Step, artefact: Artefact, state: str, part: int | None = None) -> None:
    """Into the outcome: what it is, and all tries of this step beside their predictions."""
    entry = run.outcome.record(step.name)
    entry.state, entry.artefact, entry.hash = state, str(artefact.folder), artefact.hash
    run.use(artefact.folder)
    expected = predicted(run.ready, step.name, part)
    own = counted(run.ready, expected, artefact.figures)
    entry.predicted, entry.measured = run.tries.with_own(step.name, expected, own)


def made_by(ready: Ready) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "versions": dict(ready.machine.versions),
        "machine": ready.machine.fingerprint,
    }
