"""From a planned recipe to a live service: each step once, reused where nothing changed.

    clean -> train -> compress -> gate -> serve

Heavy steps run in children (worker.py); the gate speaks HTTP from here to services started for it. Not
here: what any step does.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..artefact import Artefact, Figures, Inputs, Settings, Watch, key_of
from ..errors import Problem, Refused, Stopped, Where
from ..ledger import Row
from ..planner import Plans
from ..recipe import Recipe
from ..trust import load_keys
from .children import run_step
from .known import remember
from .load import measure_load
from .memory import PeakMemory
from .outcome import STEP_NAMES, Outcome, StepRecord
from .planning import Ready, check_port, ledger, prepare
from .report import write_report
from .services import Candidates, api_key, ask_sample
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
) -> Outcome:
    """Plan, ask, do every step up to `until`, serve. Raises the Problem of the first step that fails.

    `until` is plan or one of STEP_NAMES; with `keep` the service lives on after the call.
    """
    place = opened(recipe, workdir)
    told = LoggedWatch(place, watch or Watch())
    if place.keys and place.keys.notice:
        told.log("trust.key_made", notice=place.keys.notice)
    with locked(place):
        if until == "serve":
            check_serving(recipe, place)
        ready = prepare(recipe, place, told)
        remember(place, ready.id, recipe.name, trust_of(recipe))
        walk = Walk(ready, told)
        if until == "plan":
            return walk.outcome
        if confirm and not confirm(ready):
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


def check_serving(recipe: Recipe, place: Workdir) -> None:
    """Port and key, before anything long starts; our own older service may hold the port."""
    from ..serving import find

    serve = recipe.serve
    if serve.host not in ("127.0.0.1", "localhost", "::1") and not serve.api_key:
        raise Refused(
            "serve.no_key",
            f"{serve.host} can be reached from other machines, and no key is set",
            where=Where(str(recipe.path), field="serve.api_key"),
            why="a service without a key belongs on loopback",
            hint="set serve.api_key, or serve on 127.0.0.1",
        )
    old = find(place.service)
    if not (old and urlsplit(old.url).port == serve.port):
        check_port(serve.host, serve.port)


class Walk:
    """One run under way: the artefacts so far, and the outcome as it grows."""

    def __init__(self, ready: Ready, watch: Watch) -> None:
        self.ready, self.watch = ready, watch
        self.store = ready.workdir.store
        self.made: dict[str, Artefact] = {"base": ready.base}
        self.candidates = Candidates(ready, watch)
        records = [StepRecord(step, predicted=predicted(ready, step)) for step in STEP_NAMES]
        plan = {k: ready.document[k] for k in ("name", "machine", "hash")} | {"devices": ready.plans.shown()}
        self.outcome = Outcome(ready.id, str(ready.workdir.folder), records, plan=plan)

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
            write_report(self.outcome, self.store, self.ready.workdir.report)
            self.outcome.report = str(self.ready.workdir.report)

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
        self.made["compressed"] = self.make(
            "compress", "compression:compress", "compressed", settings, inputs
        )

    def gate(self) -> None:
        from ..gate import judge

        if not self.ready.fill.settings["train"]:
            self.outcome.record("gate").state = "skipped"
            return
        settings = gate_settings(self.ready)
        inputs = {r: self.made[r] for r in ("base", "checkpoint", "compressed", "dataset")}
        calls: dict[str, Callable[..., Any]] = {
            "serve": self.serving(inputs),
            "reference": self.candidates.reference(inputs),
        }

        def call(draft: Any) -> Figures:
            try:
                return judge(Inputs(inputs, calls), settings, draft, self.watch)
            finally:
                self.read_verdict(draft.folder)

        verdict = self.publish("gate", "verdict", settings, inputs, {}, call)
        self.read_verdict(verdict.path())

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
        record.measured = self.counted(record, seen)
        record.artefact, record.hash = str(self.made["compressed"].folder), self.made["compressed"].hash
        self.outcome.service = self.candidates.publish(keep)
        record.state = "done"
        self.note("serve", self.ready.fill.settings["serve"], record)

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
        told = {k: v for k, v in settings.items() if k not in LOCAL}
        key = key_of(step, VERSIONS[step], told, {r: a.hash for r, a in inputs.items()} | more)
        found = self.store.find(kind, key)
        if found:
            self.watch.log("step.reused", step=step, hash=found.hash)
            self.fill_in(record, found, "reused")
            return found
        draft = self.store.draft(kind, key, step, settings, inputs)
        with PeakMemory() as memory:
            figures = call(draft)
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
        self.note(step, told, record)
        return made

    def fill_in(self, record: StepRecord, artefact: Artefact, state: str) -> None:
        record.state, record.artefact, record.hash = state, str(artefact.folder), artefact.hash
        record.measured = self.counted(record, artefact.figures)

    def counted(self, record: StepRecord, figures: Figures) -> Figures:
        """What stands beside the predictions, under their keys; time is priced as the plan prices it."""
        priced = figures | {"cost_usd": figures["wall_s"] / 3600 * price_per_h(self.ready)}
        return {name: float(priced[name]) for name in record.predicted if name in priced}

    def note(self, step: str, settings: Settings, record: StepRecord) -> None:
        measured = dict(record.measured)
        if step == "serve" and self.outcome.record("gate").state != "done":
            measured.pop("peak_rss_bytes", None)  # the gate fills the cache: without it this teaches nothing
        ledger().write(
            Row(
                run=self.ready.id,
                step=step,
                machine=self.ready.machine.fingerprint,
                features=self.ready.local.features(step) | {"settings": settings},
                predicted=record.predicted,
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
        import json

        with suppress(OSError, ValueError):
            verdict = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
            self.outcome.gate = {k: verdict.get(k) for k in ("verdict", "cause", "checks")}
            self.outcome.scores = verdict.get("scores") or {}


def gate_settings(ready: Ready) -> Settings:
    """What the plan filled, and what the recipe asks of each ability."""
    gate = ready.recipe.gate
    asked = {name: {"min": g.min, "compare": g.compare} for name, g in gate.abilities.items()}
    planned = ready.fill.settings["gate"]
    return planned | {
        "abilities": asked,
        "forget": dict(gate.forget),
        "seed": ready.recipe.seed,
        "api_key": api_key(ready.recipe),
    }


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
