"""From a planned recipe to a live service: each step once, reused where nothing changed.

    clean -> train -> compress -> gate -> serve

Heavy steps run in children (worker.py); the gate speaks HTTP from here to services started for it. Not
here: what any step does.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..artefact import Artefact, Figures, Inputs, Settings, Watch, key_of
from ..errors import CheckFailed, Problem, Stopped, writing_in
from ..forms import FORMS
from ..ledger import Row
from ..planner import Local, Plans
from ..recipe import Recipe
from ..report import save
from ..trust import load_keys
from .before import check_serving
from .children import run_step
from .expected import frontier_of, larger_figures
from .frontier import Attempt, Earlier, account, blames_form
from .known import remember
from .load import measure_load
from .memory import PeakMemory
from .outcome import STEP_NAMES, Outcome, StepRecord
from .planning import ledger, prepare, prepare_model
from .ready import Ready
from .services import Candidates, api_key, ask_sample
from .sizing import Sized
from .sources import data_settings, input_hashes
from .workdir import LoggedWatch, Workdir, locked, workdir_of

# Raise a step's version when the same inputs and settings give other bytes: its old artefacts are not reused.
VERSIONS = {"clean": 1, "train": 1, "compress": 1, "gate": 1}
LOCAL = ("root", "api_key")  # settings that say where, not what: no part of a key or a manifest
Confirm = Callable[[Ready], bool]


def up(
    recipe: Recipe,
    *,
    workdir: Path | None = None,
    confirm: Confirm | None = None,
    until: str = "serve",
    keep: bool = True,
    watch: Watch | None = None,
    language: str = "en",
) -> Outcome:
    """Plan, ask, do every step up to `until`, serve. Raises the Problem of the first step that fails.

    `until` is plan or one of STEP_NAMES; with `keep` the service lives on after the call. `language` is the
    report's: en or zh.
    """
    place = opened(recipe, workdir)
    told = LoggedWatch(place, watch or Watch())
    if place.keys and place.keys.notice:
        told.log("trust.key_made", notice=place.keys.notice)
    with locked(place), writing_in(place.folder):
        if until == "serve":
            check_serving(recipe, place)
        ready = prepare(recipe, place, told)
        remember(place, ready.id, recipe.name, trust_of(recipe))
        walk = Walk(ready, told, language)
        agreed = confirm is None or confirm(ready)
        if until == "plan":
            return walk.outcome
        if not agreed:
            raise Stopped("run.declined", "nothing was started", hint="run it again with --yes to go on")
        return walk.go(until, keep)


def plan(recipe: Recipe, *, workdir: Path | None = None, watch: Watch | None = None) -> Plans:
    """The recipe weighed on every device. Raises Refused where its limits cannot be met here."""
    place = opened(recipe, workdir)
    with locked(place):
        return prepare(recipe, place, LoggedWatch(place, watch or Watch())).plans


def opened(recipe: Recipe, workdir: Path | None) -> Workdir:
    """The work folder under the recipe's trust level. Raises Refused where the level cannot be had."""
    level, key_file, root = trust_of(recipe)
    return workdir_of(recipe, workdir, load_keys(level, key_file, Path(root)))


def trust_of(recipe: Recipe) -> tuple[str, str | None, str]:
    return recipe.trust.level, recipe.trust.key_file, str(recipe.root)


Next = str | Sized  # a form of the same model, or a larger model


class Walk:
    """One run under way: the artefacts so far, and the outcome as it grows."""

    def __init__(self, ready: Ready, watch: Watch, language: str = "en") -> None:
        self.ready, self.watch, self.language = ready, watch, language
        self.store = ready.workdir.store
        self.made: dict[str, Artefact] = {"base": ready.base}
        self.candidates = Candidates(ready, watch)
        self.begun = time.monotonic()
        self.earlier = Earlier()
        records = [StepRecord(step, predicted=predicted(ready, step)) for step in STEP_NAMES]
        plan = {k: ready.document[k] for k in ("name", "machine", "hash")} | {"plans": ready.plans.as_json()}
        self.outcome = Outcome(ready.id, str(ready.workdir.folder), records, plan=plan)
        self.outcome.frontier = frontier_of(ready)

    def go(self, until: str, keep: bool) -> Outcome:
        """Walk the steps; the report is written whatever happens."""
        steps = {
            "clean": self.clean,
            "train": self.train,
            "compress": self.compress,
            "gate": self.gate,
            "serve": lambda: self.serve(keep),
        }
        try:
            for step in STEP_NAMES[: STEP_NAMES.index(until) + 1]:
                self.one(step, steps[step])
            return self.outcome
        finally:
            self.candidates.close()
            self.report()

    def one(self, step: str, do: Callable[[], None]) -> None:
        """One step; a failure is marked before it goes on up."""
        if self.watch.stop:
            raise Stopped("run.stopped", f"stopped before {step}", hint="run the same command again")
        self.watch.log("step.start", step=step)
        try:
            do()
        except BaseException:
            self.outcome.record(step).state = "failed"
            raise
        self.watch.log("step.end", step=step, state=self.outcome.record(step).state)

    def report(self) -> None:
        # A failing report must not hide the failure it would report.
        with suppress(OSError, KeyError, ValueError, Problem):
            page = str(self.ready.workdir.report)
            more = {"report": page, "sample": self.outcome.sample}
            save(self.outcome.as_json() | more, self.store.keys, self.language)
            self.outcome.report = page

    # ------------------------------------------------------------------ the steps

    def clean(self) -> None:
        if not self.ready.recipe.data:
            self.outcome.record("clean").state = "skipped"
            return
        settings = data_settings(self.ready.recipe, self.ready.fill.settings["clean"])
        inputs, hashes = {"base": self.ready.base}, input_hashes(settings)
        self.made["dataset"] = self.make("clean", "data:clean", "dataset", settings, inputs, hashes)

    def train(self) -> None:
        stages = self.ready.fill.settings["train"]
        if not stages:
            self.outcome.record("train").state = "skipped"
            self.made["checkpoint"] = self.ready.base
            return
        model = self.ready.base
        for settings in stages:
            inputs = {"dataset": self.made["dataset"], "base": model}
            model = self.make("train", "training:train", "checkpoint", settings, inputs)
        self.made["checkpoint"] = model

    def compress(self) -> None:
        settings = self.ready.fill.settings["compress"]
        inputs = {"checkpoint": self.made["checkpoint"]}
        if FORMS[settings["form"]].calibrated:
            inputs["dataset"] = self.made["dataset"]
        made = self.make("compress", "compression:compress", "compressed", settings, inputs)
        self.made["compressed"] = made
        self.attempt.hash = made.hash
        self.attempt.measured["size_bytes"] = made.figures.get("bytes", float(made.bytes))

    def gate(self) -> None:
        """Judge; what fails by its form falls to the next form, what fails by its model to a larger one."""
        if not self.ready.fill.settings["train"]:
            self.outcome.record("gate").state = "skipped"
            self.attempt.passed(None)
            return
        while (refused := self.judged()) is not None:
            self.fall(refused)

    def judged(self) -> Next | None:
        """None where the gate passed, else what is tried next. Raises GateFailed where nothing is left."""
        from ..gate import judge

        settings = gate_settings(self.ready)
        inputs = {r: self.made[r] for r in ("base", "checkpoint", "compressed", "dataset")}
        if (known := self.refusal(settings, inputs)) is not None:
            return known
        calls: dict[str, Callable[..., Any]] = {
            "serve": self.serving(inputs),
            "reference": self.candidates.reference(inputs),
            "deviation": self.candidates.deviation(inputs),
        }

        def call(draft: Any) -> Figures:
            try:
                return judge(Inputs(inputs, calls), settings, draft, self.watch)
            finally:
                self.read_verdict(draft.folder)

        try:
            verdict = self.publish("gate", "verdict", settings, inputs, {}, call)
        except CheckFailed as failure:
            return self.refused(failure, settings, inputs)
        self.read_verdict(verdict.path())
        self.attempt.passed(self.verdict)
        return None

    def refused(self, failure: CheckFailed, settings: Settings, inputs: dict[str, Artefact]) -> Next:
        """Take the account of a form that failed, and keep the verdict for a run that goes on later."""
        self.attempt.refused(self.verdict)
        after = self.after(self.verdict)
        if self.candidates.url and after:
            load = self.ready.recipe.goal.load
            self.attempt.measured |= measure_load(self.candidates.url, load, api_key(self.ready.recipe))
        self.note_attempt()
        if after is None:
            raise with_account(failure, self.outcome.frontier)
        self.keep_refusal(settings, inputs)
        return after

    def fall(self, after: Next) -> None:
        """Do again what the next form or the larger model asks for."""
        self.watch.log(
            "gate.refused", model=self.ready.model, form=self.ready.form, check=self.attempt.failed
        )
        if isinstance(after, str):
            self.put_back("compress")
            self.turn_to(replace(self.ready, form=after))
        else:
            for step in ("clean", "train", "compress"):
                self.put_back(step)
            candidate, *larger = self.ready.larger
            recipe, place = self.ready.recipe, self.ready.workdir
            ready = prepare_model(recipe, place, self.watch, candidate, tuple(larger), self.ready.id)
            before = [a for a in self.outcome.frontier if a.form is not None]
            self.outcome.frontier = before + frontier_of(ready)
            self.made = {"base": ready.base}
            self.turn_to(ready)
            self.clean()
            self.train()
        self.compress()

    def put_back(self, step: str) -> None:
        """The step will be done again: what it has come to adds to what it will."""
        record = self.outcome.record(step)
        self.earlier.put(step, record.predicted, record.measured)

    def turn_to(self, ready: Ready) -> None:
        self.ready = ready
        self.candidates.turn_to(ready)
        self.watch.log("form.next", model=ready.model, form=ready.form)

    def after(self, verdict: dict[str, Any]) -> Next | None:
        """The next form where the form is to blame, else the next larger model; None: nothing, or no time."""
        form, larger = self.ready.next_form, self.ready.larger
        if form and blames_form(verdict) and self.has_room(self.ready.ways[form].local, ("compress", "gate")):
            return form
        if not larger or not self.has_room_for(larger[0]):
            return None
        return larger[0]

    def has_room_for(self, candidate: Sized) -> bool:
        said = larger_figures(self.ready, candidate)
        return self.within(said["wall_s"].value, said["cost_usd"].value)

    def has_room(self, local: Local, steps: tuple[str, ...]) -> bool:
        figures = [local.steps[step] for step in (*steps, "serve")]
        return self.within(sum(f["wall_s"].value for f in figures), sum(f["cost_usd"].value for f in figures))

    def within(self, more_s: float, more_usd: float) -> bool:
        """Does the time so far and that of another try keep deadline and budget?"""
        goal, spent_s = self.ready.recipe.goal, time.monotonic() - self.begun
        spent_usd = spent_s / 3600 * price_per_h(self.ready)
        late = goal.deadline_s is not None and spent_s + more_s > goal.deadline_s
        return not late and not (goal.budget and spent_usd + more_usd > goal.budget.usd)

    @property
    def attempt(self) -> Attempt:
        here = (self.ready.model, self.ready.form)
        return next(a for a in self.outcome.frontier if (a.model, a.form) == here)

    @property
    def verdict(self) -> dict[str, Any]:
        return (self.outcome.gate or {}) | {"scores": self.outcome.scores}

    # ------------------------------------------------------------------ verdicts that refused

    def refusal(self, settings: Settings, inputs: dict[str, Artefact]) -> Next | None:
        """What an earlier run tried after this form, if it refused it and something is still left to try."""
        found = self.store.find("refusal", self.refusal_key(settings, inputs))
        if found is None:
            return None
        self.read_verdict(found.path())
        after = self.after(self.verdict)
        if after is not None:
            self.attempt.refused(self.verdict)
            served = {k: v for k, v in found.figures.items() if k in self.attempt.predicted}
            self.attempt.measured |= served
            self.earlier.add("gate", predicted(self.ready, "gate"), found.figures)
            self.watch.log("step.reused", step="gate", hash=found.hash)
        return after

    def keep_refusal(self, settings: Settings, inputs: dict[str, Artefact]) -> None:
        told = without_local(settings)
        key = self.refusal_key(settings, inputs)
        draft = self.store.draft("refusal", key, "gate", told, inputs)
        text = json.dumps(self.verdict, indent=2, sort_keys=True, ensure_ascii=False)
        (draft.folder / "verdict.json").write_text(text, encoding="utf-8")
        figures = self.attempt.measured | self.earlier.last("gate")
        self.store.publish(draft, figures, made_by(self.ready), recipe_hash=self.ready.recipe.hash)

    def refusal_key(self, settings: Settings, inputs: dict[str, Artefact]) -> str:
        hashes = {r: a.hash for r, a in inputs.items()}
        return key_of("refusal", VERSIONS["gate"], without_local(settings), hashes)

    def note_attempt(self) -> None:
        """The ledger's row of a form that failed: no times, since a gate may stop early."""
        attempt = self.attempt
        ledger().write(
            Row(
                run=self.ready.id,
                step="gate",
                machine=self.ready.machine.fingerprint,
                features={"model": attempt.model, "form": attempt.form, "failed": attempt.failed},
                predicted=attempt.predicted,
                measured=attempt.measured,
                versions=dict(self.ready.machine.versions),
            )
        )

    # ------------------------------------------------------------------ the last step

    def serve(self, keep: bool) -> None:
        record, recipe = self.outcome.record("serve"), self.ready.recipe
        self.candidates.references.close()
        key = api_key(recipe)
        with PeakMemory(steady=True) as memory:
            candidate = self.candidates.candidate(self.made["compressed"])
            measured = measure_load(candidate.service.url, recipe.goal.load, key)
        if not self.store.keys:  # a row and its answer are the user's secrets
            self.outcome.sample = ask_sample(candidate.service, self.made.get("dataset"), key)
        seen = {"wall_s": candidate.wall_s, "peak_rss_bytes": memory.bytes} | measured
        record.predicted = predicted(self.ready, "serve")
        record.measured = self.counted(record.predicted, seen)
        self.attempt.measured |= {k: v for k, v in measured.items() if k in self.attempt.predicted}
        record.artefact, record.hash = str(self.made["compressed"].folder), self.made["compressed"].hash
        self.outcome.service = self.candidates.publish(keep)
        record.state = "done"
        self.note("serve", self.ready.fill.settings["serve"], record.predicted, record.measured)

    # ------------------------------------------------------------------ shared by the steps

    def make(
        self,
        step: str,
        call: str,
        kind: str,
        settings: Settings,
        inputs: dict[str, Artefact],
        more: dict[str, str] | None = None,
    ) -> Artefact:
        """A step in a child process."""
        keys = trust_of(self.ready.recipe) if self.store.keys else None

        def run(draft: Any) -> Figures:
            return run_step(call, inputs, draft, self.store.folder, keys, self.watch)

        return self.publish(step, kind, settings, inputs, more or {}, run)

    def publish(
        self,
        step: str,
        kind: str,
        settings: Settings,
        inputs: dict[str, Artefact],
        more: dict[str, str],
        call: Callable[[Any], Figures],
    ) -> Artefact:
        """Reuse the artefact with this key, or do the step, measure it, publish it and write the ledger."""
        record = self.outcome.record(step)
        told = without_local(settings)
        key = key_of(step, VERSIONS[step], told, {r: a.hash for r, a in inputs.items()} | more)
        found = self.store.find(kind, key)
        if found:
            self.watch.log("step.reused", step=step, hash=found.hash)
            self.fill_in(record, found, "reused")
            return found
        draft = self.store.draft(kind, key, step, settings, inputs)
        memory = PeakMemory()
        try:
            with memory:
                figures = call(draft)
        except CheckFailed:
            seen = {"wall_s": memory.wall_s, "peak_rss_bytes": float(memory.bytes)}
            said = predicted(self.ready, step)
            self.earlier.add(step, said, self.counted(said, seen))
            raise
        draft.settings = told
        measured = figures | {"wall_s": memory.wall_s, "peak_rss_bytes": memory.bytes}
        made = self.store.publish(
            draft,
            measured,
            made_by(self.ready),
            recipe_hash=self.ready.recipe.hash,
            plan_id=self.ready.document["hash"],
            seed=self.ready.recipe.seed,
        )
        self.fill_in(record, made, "done")
        said = predicted(self.ready, step)
        self.note(step, told, said, self.counted(said, made.figures))
        return made

    def fill_in(self, record: StepRecord, artefact: Artefact, state: str) -> None:
        record.state, record.artefact, record.hash = state, str(artefact.folder), artefact.hash
        said = predicted(self.ready, record.step)
        own = self.counted(said, artefact.figures)
        record.predicted, record.measured = self.earlier.with_own(record.step, said, own)

    def counted(self, said: Figures, figures: Figures) -> Figures:
        """What stands beside the predictions, under their keys; time is priced as the plan prices it."""
        priced = figures | {"cost_usd": figures["wall_s"] / 3600 * price_per_h(self.ready)}
        return {name: float(priced[name]) for name in said if name in priced}

    def note(self, step: str, settings: Settings, said: Figures, seen: Figures) -> None:
        measured = dict(seen)
        if step == "serve" and self.outcome.record("gate").state != "done":
            measured.pop("peak_rss_bytes", None)  # the gate fills the cache: without it this teaches nothing
        ledger().write(
            Row(
                run=self.ready.id,
                step=step,
                machine=self.ready.machine.fingerprint,
                features=self.ready.local.features(step) | {"settings": settings},
                predicted=said,
                measured=measured,
                versions=dict(self.ready.machine.versions),
            )
        )

    def serving(self, inputs: dict[str, Artefact]) -> Callable[[str], Any]:
        @contextmanager
        def serve(role: str) -> Iterator[str]:
            with self.candidates.serve(role, inputs) as url:
                yield url

        return serve

    def read_verdict(self, folder: Path) -> None:
        with suppress(OSError, ValueError):
            verdict = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
            self.outcome.gate = {k: verdict.get(k) for k in ("verdict", "cause", "checks")}
            self.outcome.gate["design"] = (verdict.get("details") or {}).get("design")
            self.outcome.scores = verdict.get("scores") or {}


def gate_settings(ready: Ready) -> Settings:
    """What the plan filled, and what the recipe asks of each ability.

    `tolerances` are those that the plan has stated.
    """
    gate = ready.recipe.gate
    asked = {name: {"min": g.min, "compare": g.compare} for name, g in gate.abilities.items()}
    return ready.fill.settings["gate"] | {
        "abilities": asked,
        "seed": ready.recipe.seed,
        "api_key": api_key(ready.recipe),
        "temperature": ready.recipe.serve.temperature,  # what the candidate was told to sample at
    }


def without_local(settings: Settings) -> Settings:
    return {k: v for k, v in settings.items() if k not in LOCAL}


def with_account(failure: CheckFailed, frontier: list[Attempt]) -> CheckFailed:
    """The last failure, with what became of the forms and models before it."""
    tried = [a for a in frontier if a.state == "failed"]
    if len(tried) > 1:
        failure.why = f"{failure.why}; {account(frontier)}" if failure.why else account(frontier)
    return failure


def predicted(ready: Ready, step: str) -> dict[str, float]:
    """The plan's figures for one step, flat."""
    return {name: figure.value for name, figure in ready.local.steps[step].items()}


def price_per_h(ready: Ready) -> float:
    """US dollars an hour of this machine: the user's price, else its share of the nearest device's."""
    own = ready.fill.price_usd_per_h
    return ready.machine.price_usd_per_h if own is None else own


def made_by(ready: Ready) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "versions": dict(ready.machine.versions),
        "machine": ready.machine.fingerprint,
    }
