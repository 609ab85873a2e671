"""One run under way: what is planned, what has been made, what it came to. Steps read and change it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...artefact import Artefact, Store, Watch, write_durably
from ...planner import optional_steps
from ..planning.expected import frontier_of
from ..planning.ready import Ready
from ..record.approval import asked_of
from ..record.frontier import Attempt, Tries
from ..record.outcome import STEP_NAMES, Outcome, StepRecord, names_until
from ..service.services import Candidates


@dataclass(slots=True)
class Run:
    """`artefacts` by role: base, dataset, checkpoint, compressed, verdict. `used`: folders it refers to."""

    ready: Ready
    watch: Watch
    outcome: Outcome
    candidates: Candidates
    artefacts: dict[str, Artefact]
    keep: bool = True
    tries: Tries = field(default_factory=Tries)
    used: set[str] = field(default_factory=set)
    taught: dict[str, dict[str, Any]] = field(
        default_factory=dict
    )  # accounts of stages by "texts", "chats", "all"
    begun: float = field(default_factory=time.monotonic)
    before: Callable[[Run], None] | None = None  # looks at the candidate before it is published
    ended: bool = False  # every step that was asked for is done
    erased: str | None = None  # digest of the list of erased rows that the data set has no row of

    @property
    def store(self) -> Store:
        return self.ready.workdir.store

    @property
    def attempt(self) -> Attempt:
        """The form and the model at hand."""
        here = (self.ready.model, self.ready.form, self.ready.share, self.ready.way)
        return next(a for a in self.outcome.frontier if (a.model, a.form, a.share, a.way) == here)

    @property
    def checkpoint(self) -> Artefact:
        """What is compressed and served: the tuned model, pruned and healed where that was asked, and of a
        form that is trained the one that has learnt its rounding."""
        made = (self.artefacts.get(role) for role in ("requantised", "healed", "pruned"))
        return next(filter(None, made), self.artefacts["checkpoint"])

    @property
    def verdict(self) -> dict[str, Any]:
        return (self.outcome.gate or {}) | {"scores": self.outcome.scores}

    def use(self, folder: Path) -> None:
        """This run refers to an artefact or a scratch: `gc` leaves it."""
        self.used.add(folder.name)

    def turn_to(self, ready: Ready) -> None:
        """Go on with another form or another model."""
        self.ready = ready
        self.candidates.turn_to(ready)
        more = {"share": ready.share, "way": ready.way}
        more = {name: value for name, value in more.items() if value is not None}
        self.watch.log("form.next", model=ready.model, form=ready.form, **more)

    def note(self, event: str, text: str, **fields: Any) -> None:
        """Something that could not be done and ends nothing: logged each time, told to the user once."""
        self.watch.log(event, **fields)
        if text not in self.outcome.notes:
            self.outcome.notes.append(text)


def new_run(ready: Ready, watch: Watch, keep: bool = True) -> Run:
    """A run before its first step, with every prediction in its outcome."""
    names = names_until(STEP_NAMES[-1], optional_steps(ready.recipe))
    records = [StepRecord(step, predicted=predicted(ready, step)) for step in names]
    plan = {k: ready.document[k] for k in ("name", "machine", "hash")} | {"plans": ready.plans.as_json()}
    outcome = Outcome(
        ready.id, str(ready.workdir.folder), records, plan=plan, simulated=ready.workdir.simulated
    )
    outcome.frontier = frontier_of(ready)
    return Run(ready, watch, outcome, Candidates(ready, watch), {"base": ready.base}, keep)


def predicted(ready: Ready, step: str, part: int | None = None) -> dict[str, float]:
    """The plan's figures for one step, flat; `part`: of that piece of its work (a stage) alone."""
    figures = ready.local.of(step, part)
    return {name: figure.value for name, figure in figures.items()}


def refer(run: Run) -> None:
    """Note what this run refers to. Names are no secret: under seal they give nothing away.

    Until it has ended it may yet come to what the run before it referred to: `earlier`, for `gc` alone.
    """
    path, base, before = run.ready.workdir.refers, run.ready.base, noted(run.ready.workdir.refers)
    cached = {base.folder.name, *run.candidates.cached}
    cached |= (
        set(before["cached"]) if before.get("base") == base.hash else set()
    )  # a reused gate exports none
    entry = {"run": run.ready.id, "plan": run.ready.document["hash"], "base": base.hash}
    entry |= {"artefacts": sorted(run.used), "cached": sorted(cached)}
    earlier = set() if run.ended else {*before.get("artefacts", ()), *before.get("earlier", ())} - run.used
    entry |= {"earlier": sorted(earlier)} if earlier else {}
    entry |= asked_of(run.ready.recipe)
    with suppress(OSError):  # a full disk must not hide what filled it
        write_durably(path, json.dumps(entry).encode())


def noted(path: Path) -> dict[str, Any]:
    """What was written there before; nothing where that is no note of a run."""
    with suppress(OSError, ValueError):
        before = json.loads(path.read_text(encoding="utf-8"))
        names = ("artefacts", "cached", "earlier")
        if isinstance(before, dict) and all(isinstance(before.get(name, []), list) for name in names):
            return {"artefacts": [], "cached": [], **before}
    return {}
