"""The gate as a step: judge, keep what refused, fall to what is tried next.

It speaks HTTP from this process to services started for it. Not here: how it judges (gate).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ...artefact import Artefact, Draft, Figures, Inputs, Settings, adopt
from ...errors import CheckFailed
from ...model import family_of
from ..planning.ready import Ready
from ..record.acts import written
from ..record.frontier import Attempt, account
from ..service.load import measure_load
from ..service.services import api_key
from .fallback import Next, fall, next_after
from .learn import learn_failed, learn_kept
from .make import made_by, make, skip
from .run import Run, predicted
from .step import Again, Step, Work, key_of_work, work_of

REFUSALS = ("gate.failed", "gate.undecided")  # codes of a judgement


def judged(run: Run, step: Step) -> Again:
    """The steps to do again: none where it passed. Raises CheckFailed where nothing is left to try."""
    works = step.settings(run.ready)
    if not works:
        skip(run, step)
        run.attempt.passed(None)
        return ()
    work = work_of(run, step, works[0])
    to = earlier_refusal(run, step, work) or judge_now(run, step, work)
    return fall(run, to) if to is not None else ()


def judge_now(run: Run, step: Step, work: Work) -> Next | None:
    """None where the gate passed, else what is tried next. Raises GateFailed where nothing is left."""
    from ...gate import judge

    calls: dict[str, Callable[..., Any]] = {
        "serve": serving(run, work),
        "reference": run.candidates.reference(dict(work.inputs)),
        "deviation": run.candidates.deviation(dict(work.inputs)),
    }
    if not family_of(run.ready.base.path()).trainable:
        del calls["deviation"]  # transformers' reference knows no directions

    def call(draft: Draft) -> Figures:
        try:
            return judge(Inputs(dict(work.inputs), calls), work.settings, draft, run.watch)
        finally:
            read_verdict(run, draft.folder)

    try:
        verdict = make(run, step, work, call)
    except CheckFailed as failure:
        if failure.code not in REFUSALS:  # a damaged artefact or an unsafe adapter is no form's fault
            raise
        return refused(run, step, work, failure)
    run.artefacts[step.makes] = verdict
    read_verdict(run, verdict.path())
    if run.outcome.record(step.name).state == "done":
        note_judged(run, work, "done", verdict.hash)
        learn_kept(run)
    run.attempt.passed(run.verdict)
    return None


def serving(run: Run, work: Work) -> Callable[[str], Any]:
    @contextmanager
    def serve(role: str) -> Iterator[str]:
        with run.candidates.serve(role, dict(work.inputs)) as url:
            yield url

    return serve


def read_verdict(run: Run, folder: Path) -> None:
    """Verdict and scores of a draft or an artefact, into the outcome; a gate that broke off left none."""
    with suppress(OSError, ValueError):
        verdict = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
        run.outcome.gate = {k: v for k, v in verdict.items() if k not in ("scores", "details")}
        details = verdict.get("details") or {}
        run.outcome.scores = verdict.get("scores") or {}
        run.outcome.gate["design"] = details.get("design")
        run.outcome.gate["rows"] = {
            role: (details.get(role) or {}).get("rows") for role in run.outcome.scores
        }


def note_judged(run: Run, work: Work, outcome: str, verdict: str | None = None) -> None:
    judged = work.inputs["compressed"].hash
    written(run.watch, "gate.judged", artefact=judged, outcome=outcome, verdict=verdict)


# ------------------------------------------------------------------ refusals


def refused(run: Run, step: Step, work: Work, failure: CheckFailed) -> Next:
    """Take the account of a form that failed, and keep the verdict for a run that goes on later."""
    run.attempt.refused(run.verdict)
    note_judged(run, work, "refused")
    after = next_after(run)
    if run.candidates.url and after:
        load = run.ready.recipe.goal.load
        run.attempt.measured |= measure_load(run.candidates.url, load, api_key(run.ready.recipe), run.watch)
    learn_failed(run)
    learn_kept(run)
    if after is None:
        raise with_account(failure, run.outcome.frontier)
    keep_refusal(run, step, work)
    return after


def with_account(failure: CheckFailed, frontier: list[Attempt]) -> CheckFailed:
    """The last failure, with what became of the forms and models before it."""
    if sum(a.state == "failed" for a in frontier) > 1:
        failure.why = f"{failure.why}; {account(frontier)}" if failure.why else account(frontier)
    return failure


def earlier_refusal(run: Run, step: Step, work: Work) -> Next | None:
    """What an earlier run tried after this form, if it refused it and something is still left to try."""
    earlier = run.store.find("refusal", key_of_work(run, step, work, "refusal"))
    if earlier is None:
        return None
    read_verdict(run, earlier.path())
    after = next_after(run)
    if after is not None:
        run.attempt.refused(run.verdict)
        run.attempt.measured |= {k: v for k, v in earlier.figures.items() if k in run.attempt.predicted}
        run.tries.add("gate", predicted(run.ready, "gate"), earlier.figures)
        run.use(earlier.folder)
        run.watch.log("step.reused", step="gate", hash=earlier.hash)
    return after


def keep_refusal(run: Run, step: Step, work: Work) -> Artefact:
    key = key_of_work(run, step, work, "refusal")
    draft = run.store.draft("refusal", key, step.name, work.own, work.inputs)
    text = json.dumps(run.verdict, indent=2, sort_keys=True, ensure_ascii=False)
    (draft.folder / "verdict.json").write_text(text, encoding="utf-8")
    figures = run.attempt.measured | run.tries.last("gate")
    refusal = run.store.publish(draft, figures, made_by(run.ready), recipe_hash=run.ready.recipe.hash)
    run.use(refusal.folder)
    return refusal


# ------------------------------------------------------------------ what is judged


def gate_settings(ready: Ready) -> Settings:
    """What the plan filled, and what the recipe asks of each ability.

    `tolerances` are those that the plan has stated.
    """
    gate = ready.recipe.gate
    abilities = {name: {"min": g.min, "compare": g.compare} for name, g in gate.abilities.items()}
    return ready.fill.settings["gate"] | {
        "abilities": abilities,
        "seed": ready.recipe.seed,
        "api_key": api_key(ready.recipe),
        "temperature": ready.recipe.serve.temperature,  # what the candidate was told to sample at
    }


NOT_ANSWERS = ("load",)  # planned for serving, and no part of what a service answers


def judged_service(run: Run) -> dict[str, str]:
    """Hashes of how the judged service is set up and of the models beside it: another one is judged anew."""
    recipe, planned = run.ready.recipe, run.ready.fill.settings["serve"]
    setup = {k: v for k, v in planned.items() if k not in NOT_ANSWERS}
    setup["speculative"] = recipe.serve.speculative
    setup |= launched(run.ready.engine)
    text = json.dumps(setup, sort_keys=True, default=str).encode()
    hashes = {"service": hashlib.sha256(text).hexdigest()}
    beside = {f"adapter:{name}": folder for name, folder in recipe.serve.adapters.items()}
    beside |= {"draft": recipe.serve.draft} if recipe.serve.draft else {}
    return hashes | {role: content_of(recipe.root / name, name) for role, name in beside.items()}


def launched(engine: Settings) -> Settings:
    """Of an engine with a server of its own: its words, which may round or cut, and its version."""
    if not engine:
        return {}
    from ...serving import engine_version

    return {"launched": engine, "version": engine_version(engine["engine"], engine.get("engine_python"))}


def content_of(path: Path, name: str) -> str:
    """The hash of a folder's or file's content; of a model by name, the name."""
    if path.is_dir():
        return adopt(path).hash
    return hashlib.sha256(path.read_bytes() if path.is_file() else name.encode()).hexdigest()
