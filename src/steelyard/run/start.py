"""Begin a run: its folder, its lock, its plan; then its steps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ..artefact import Place, Watch, enter_own_memory
from ..errors import Problem, Stopped, Where, WrongUse, writing_in
from ..planner import Plans, optional_steps
from ..recipe import Recipe
from ..report import save
from ..trust import REHEARSED, check_rehearsal
from .known import remember
from .path.driver import drive
from .path.erased import ErasedMeanwhile
from .path.run import Run, new_run
from .planning.checks import check_serving
from .planning.prepare import prepare
from .planning.ready import Ready
from .record.acts import written
from .record.outcome import Outcome, names_until
from .record.rated import ACCEPTED, with_rated
from .record.workdir import LoggedWatch, Workdir, locked, opened

Confirm = Callable[[Ready], bool]
UNSERVED = ("plan", "clean", "train")


def check_until(recipe: Recipe, until: str) -> None:
    """Raises WrongUse where a reward model would be compressed, judged or served."""
    stages = recipe.train
    if not stages or stages[-1].stage != "rm" or until in UNSERVED:
        return
    raise WrongUse(
        "train.reward_not_served",
        "stage: rm makes a reward model, which gives scores and no answers: it cannot be judged or served",
        where=Where(str(recipe.path), field=f"train.{len(stages) - 1}.stage"),
        hint="steelyard up RECIPE --until train leaves it as a checkpoint",
    )


def up(
    recipe: Recipe,
    *,
    workdir: Path | None = None,
    confirm: Confirm | None = None,
    until: str = "serve",
    keep: bool = True,
    watch: Watch | None = None,
    language: str = "en",
    rehearse: bool = False,
    rated: str = ACCEPTED,
    before: Callable[[Run], None] | None = None,
) -> Outcome:
    """Plan, ask, do every step up to `until`, serve. Raises the Problem of the first step that fails.

    `until` is plan or one of STEP_NAMES (record/outcome.py); with `keep` the service lives on after the call.
    `language` is the report's: en or zh. `rehearse`: the path of `trust: sealed`, SIMULATED. `rated`: which
    rows of rated answers are learnt too; `before`: looks at the candidate before it is published, and may
    refuse it.
    """
    check_until(recipe, until)
    recipe = rehearsed(recipe) if rehearse else recipe
    place = opened(recipe, workdir)
    if place.keys and until != "plan":  # a plan opens nothing
        enter_own_memory()
    logged = LoggedWatch(place, watch or Watch())
    if place.keys and place.keys.notice:
        logged.log("trust.key_made", notice=place.keys.notice)
        written(logged, "key.made", kind="sealing", key=place.keys.id)
    from ..data import asked_once  # numpy and more, which looking at a recipe does without

    with locked(place), writing_in(place.folder), asked_once():
        while True:
            try:
                with with_rated(recipe, place, rated) as taught:
                    run = begun(taught, place, logged, until, confirm, keep)
                    run.before = before
                    return (
                        run.outcome if until == "plan" else drive(run, until, lambda r: report(r, language))
                    )
            except ErasedMeanwhile:
                confirm = None  # the same work, less some rows


def begun(
    recipe: Recipe, place: Workdir, watch: LoggedWatch, until: str, confirm: Confirm | None, keep: bool
) -> Run:
    """Planned and agreed to, before its first step. Raises Stopped where it is declined."""
    if until == "serve":
        check_serving(recipe, place)
    count = 1 + len(names_until(until, optional_steps(recipe)))
    watch.at(Place("plan", 1, count))
    ready = prepare(recipe, place, watch)
    remember(place, ready.id, recipe, watch)
    agreed = confirm is None or confirm(ready)
    if not agreed and until != "plan":
        raise Stopped("run.declined", "nothing was started", hint="run it again with --yes to go on")
    return new_run(ready, watch, keep)


def rehearsed(recipe: Recipe) -> Recipe:
    """Of a sealed recipe, what runs without a trusted execution environment. Raises WrongUse, Refused."""
    if recipe.trust.level != "sealed":
        raise WrongUse(
            "trust.rehearse",
            f"only `trust: sealed` is rehearsed, and this is {recipe.trust.level}",
            where=Where(str(recipe.path), field="--rehearse"),
            hint="leave --rehearse out, or --set trust=sealed",
        )
    check_rehearsal()
    return replace(recipe, trust=replace(recipe.trust, level=REHEARSED))


def report(run: Run, language: str) -> None:
    """Write the report; a failing one must not hide the failure that it would report."""
    page = str(run.ready.workdir.report)
    with suppress(OSError, LookupError, ValueError, TypeError, Problem):
        more = {"report": page, "sample": run.outcome.sample}
        save(run.outcome.as_json() | more, run.store.keys, language)
        run.outcome.report = page


def plan(recipe: Recipe, *, workdir: Path | None = None, watch: Watch | None = None) -> Plans:
    """The recipe weighed on every device. Raises Refused where its limits cannot be met here."""
    from ..data import asked_once

    place = opened(recipe, workdir)
    with locked(place), asked_once(), with_rated(recipe, place) as recipe:
        return prepare(recipe, place, LoggedWatch(place, watch or Watch())).plans
