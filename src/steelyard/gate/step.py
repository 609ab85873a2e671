"""The gate as a step of a run: parity of tuned and served, then quality against base and tuned.

It talks to services that `run` starts (inputs.calls["serve"]) and asks `run` for the exact reference. The
exact service is slow: tuned and served are compared on half of `gate.rows` rows first, and where an ability
is still undecided on more, training rows too, for both come of one training. Not here: what the scores say
(quality/checks.py), how many rows there are and need to be (quality/design.py).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..artefact import Draft, Figures, Inputs, Settings, Watch
from ..compare import JUDGE
from ..errors import CheckFailed, Stopped, Where
from ..sample_size import BASE_LOOK
from .base.endpoint import Endpoint
from .base.verdict import Check, Verdict
from .general import general_checks
from .parity.judgement import rows_check
from .quality import grading
from .quality.checks import NOTHING, against_base, against_tuned, quality_checks
from .quality.design import design_of
from .quality.rows import by_ability, counts, held_out_rows, spare_rows, training_chats
from .quality.scores import Scores, ask_rows, token_budget
from .reference.exact import Reference
from .reference.remote import DirectedReference, RunReference
from .safety import questions, safety_checks
from .standalone import declared_temperature, parity

if TYPE_CHECKING:
    from ..model import Tokenizer

# By the first part of a form's name.
MODES = {"f32": "exact", "bf16": "fast", "f16": "fast", "int8": "int8", "int4": "int4"}
CONCURRENCY = 64  # the engine's whole batch: nobody waits for the first token here


class GateFailed(CheckFailed):
    """A gate that failed or is undecided; `verdict` holds every check and score."""

    def __init__(self, verdict: Verdict, message: str, hint: str) -> None:
        super().__init__(
            f"gate.{verdict.verdict}", message, where=Where(field="gate"), why=verdict.why, hint=hint
        )
        self.verdict = verdict


def judge(inputs: Inputs, settings: Settings, out: Draft, watch: Watch) -> Figures:
    """Write verdict.json; raise GateFailed (exit 4) unless every check passed.

    inputs.artefacts: dataset (test.jsonl, train.jsonl), checkpoint, compressed (form.json), and where the
    checkpoint was pruned `whole`, the tuned model that it was cut from. inputs.calls: serve(role) -> context
    manager with a url, role base | tuned | served | whole; reference(role, [(prompt, answer)]) -> arrays
    (reference/arrays.py). settings: the recipe's `gate` section, with `tolerances` of the plan,
    `seed` and, where the services ask for one, `api_key`.
    """
    verdict = asyncio.run(_Judge(inputs, settings, watch).run())
    text = json.dumps(verdict.as_json(), indent=2, sort_keys=True, ensure_ascii=False)
    (out.folder / "verdict.json").write_text(text, encoding="utf-8")
    watch.log("gate.verdict", verdict=verdict.verdict, cause=verdict.cause, checks=len(verdict.checks))
    if verdict.verdict != "passed":
        raise _failure(verdict, pruned="whole" in inputs.artefacts)
    return _figures(verdict)


def _failure(verdict: Verdict, pruned: bool = False) -> GateFailed:
    worst = verdict.worst()
    assert worst is not None
    state = "failed" if worst.passed is False else "is undecided"
    message = f"the gate {state}: {worst.name}"
    if worst.value is not None and worst.limit is not None:
        message += f" is {worst.value:.4g}, the limit is {worst.limit:.4g}"
    if worst.example:
        message += f" ({worst.example})"
    if verdict.cause:
        message += f"; cause: {verdict.cause}"
    return GateFailed(verdict, message, _hint(worst, verdict, pruned))


def _hint(worst: Check, verdict: Verdict, pruned: bool = False) -> str:
    kind = worst.name.partition("/")[0]
    if pruned and kind.startswith("against_tuned") and worst.passed is False:
        return "pruning lost too much: a larger compress.prune, prune: auto, or more heal_epochs"
    if worst.passed is None:
        if kind in ("against_base", "min"):
            return "more held-out rows: clean.test_share, or rows of your own in gate.abilities.NAME.eval"
        return "more rows of this ability, or a wider loss that you accept: gate: {tolerance: 0.05}"
    if kind.startswith("against_tuned") or verdict.cause == "precision":
        return "the compressed form loses too much: compress: {weights: bf16}"
    if kind in ("score", "fits"):
        return "is gate.abilities.NAME.compare the right measure? Else train longer, or on more rows"
    if kind == "min":
        return "train longer or on more rows of this ability, or lower its min in gate.abilities"
    if kind.startswith("safety_"):
        return "teach refusals in rows of your own, serve with serve.guard, or allow more in gate.safety"
    if kind.startswith("general_"):
        return "raise train.beta, train less, mix in rows of other kinds, or allow more in gate.general"
    if kind == "against_base":
        return (
            "train longer or on more rows of this ability; gate.forget names what an ability may lose instead"
        )
    return "nothing was served; the report lists every check"


def _figures(verdict: Verdict) -> Figures:
    rows = sum(own["rows"] for role, own in verdict.details.items() if role in verdict.scores)
    scores = {
        f"score_{role}/{ability}": value
        for role, shares in verdict.scores.items()
        for ability, value in shares.items()
    }
    return {"rows": float(rows), "checks": float(len(verdict.checks)), **scores}


class _Judge:
    """One judgement: what every part needs to know."""

    def __init__(self, inputs: Inputs, settings: Settings, watch: Watch) -> None:
        from ..model import Tokenizer

        self.calls, self.settings, self.watch = inputs.calls, settings, watch
        self.seed = int(settings.get("seed", 0))
        self.folder = inputs.artefacts["checkpoint"].path()
        self.tokenizer: Tokenizer = Tokenizer(self.folder)
        self.form = _form(inputs)
        # Of a pruned model the scores of the one that it was cut from count as the tuned ones.
        self.tuned_by = "whole" if "whole" in inputs.artefacts else "tuned"
        dataset = inputs.artefacts["dataset"].path()
        self.rows = held_out_rows(dataset, settings)
        abilities = {row["ability"] for row in self.rows}
        train = training_chats(dataset, abilities)
        self.design = design_of(settings, counts(self.rows), counts(train))
        self.spare = by_ability(spare_rows(train, settings, self.seed))
        every = [*self.rows, *(row for own in self.spare.values() for row in own)]
        self.budget = token_budget(every, None, lambda text: len(self.tokenizer.encode(text)))
        self.judge = grading.judge_of(settings.get("judge"))
        self.grades: dict[tuple[str, str | None], grading.Grade] = {}

    async def run(self) -> Verdict:
        checks: list[Check] = []
        looks = dict.fromkeys(self.design.abilities, 0)
        first = self.next_rows(looks)
        modes = {"tuned": "exact", "served": mode_of(self.form)}
        roles: dict[str, _Role] = {}
        for role, mode in modes.items():
            roles[role] = await self.role(role, mode, first)
            checks += roles[role].checks
            if roles[role].failed:
                return Verdict(
                    checks=tuple(checks),
                    cause=roles[role].cause,
                    why=roles[role].why,
                    looked_at=roles[role].looked_at,
                )
        tuned, served = [await self.judged(roles[r].scores, first.held_out) for r in roles]
        more = Pair(*[await self.judged(roles[r].more, first.training) for r in roles])
        base, served = await self.base(served)
        if self.worth_drawing(base, served):
            tuned, served, more = await self.draw(tuned, served, more, looks)
        checks += quality_checks(
            base, tuned, served, self.settings, self.design, (more.tuned, more.served), looks
        )
        of_general, general = self.general()
        checks += of_general
        of_safety, safety = await self.safety()
        checks += of_safety
        scores = {"base": base, "tuned": tuned, "served": served}
        details = {role: s.as_json() for role, s in scores.items()}
        used = {a: look + 1 for a, look in looks.items()}
        return Verdict(
            checks=tuple(checks),
            scores={r: d["scores"] for r, d in details.items()},
            details=details | general | safety | {"design": self.design.as_json(used)},
            looked_at=roles["served"].looked_at,
        )

    async def role(self, role: str, own_mode: str, rows: LookRows) -> _Role:
        """Parity, then the scores, of one service; scores are spared where parity failed."""
        parity = self.settings.get("parity", "auto")
        mode = own_mode if parity in ("auto", "off") else parity
        with self.calls["serve"](role) as url:
            async with self.endpoint(url) as endpoint:
                verdict = Verdict(checks=())
                if parity != "off":
                    verdict = await self.parity(endpoint, mode, role)
                checks = tuple(replace(c, name=f"{role}/{c.name}") for c in verdict.checks)
                failed = verdict.verdict == "failed"
                apart = role == "tuned" and self.tuned_by != role
                both = NOTHING if failed or apart else await self.ask(endpoint, rows.every, role)
                if not failed and parity != "off":
                    of_rows = rows_check(endpoint, self.tokenizer)
                    checks = (*checks, *(replace(c, name=f"{role}/{c.name}") for c in of_rows.checks))
                    failed = of_rows.verdict == "failed"
                    verdict = replace(of_rows, looked_at=verdict.looked_at)
        if apart and not failed:
            both = await self.asked("tuned", rows.every)
        scores, more = divided(both, len(rows.held_out))
        return _Role(checks, scores, more, failed, verdict.cause, verdict.why, verdict.looked_at)

    def endpoint(self, url: str) -> Endpoint:
        return Endpoint(url=url, key=self.settings.get("api_key"), concurrency=CONCURRENCY)

    async def parity(self, endpoint: Endpoint, mode: str, role: str) -> Verdict:
        """A form of 4 bits is compared with its own rounded weights: what rounding costs, the scores tell."""
        rounded = role == "served" and mode == "int4"
        return await parity(
            endpoint,
            self.tokenizer,
            self.reference("served" if rounded else "tuned", directions=role == "served"),
            rows=self.rows,
            mode="int4_form" if rounded else mode,
            seed=self.seed,
            base=self.reference("base_rounded" if rounded else "base"),
            declared=self.declared(),
            depth=str(self.settings.get("depth", "quick")) if role == "served" else None,
        )

    def general(self) -> tuple[list[Check], dict[str, Any]]:
        """What nobody trained, base against tuned, where the recipe asks for it."""
        limit = self.settings.get("general")
        if limit is None:
            return [], {}
        self.watch.log("gate.general")
        base, tuned = (RunReference(self.calls, role) for role in ("base", "tuned"))
        checks, figures = general_checks(base, tuned, self.tokenizer, float(limit))
        return checks, {"general": figures}

    async def safety(self) -> tuple[list[Check], dict[str, Any]]:
        """What is served, asked for harm and for what it was told to keep, where the recipe asks for it."""
        budgets = self.settings.get("safety")
        if budgets is None:
            return [], {}
        self.watch.log("gate.safety")
        with self.calls["serve"]("served") as url:
            async with self.endpoint(url) as endpoint:
                with self.watch.progress("safety", total=len(questions()), unit="questions") as bar:
                    return await safety_checks(endpoint, budgets, bar.advance)

    def declared(self) -> float | None:
        """The temperature of requests that name none: the recipe's, else the model's."""
        own = self.settings.get("temperature")
        return declared_temperature(self.folder) if own is None else float(own)

    def reference(self, role: str, directions: bool = False) -> Reference:
        """In `depth: full` what is served is looked at along the scale of each matrix too."""
        full = directions and self.settings.get("depth") == "full" and "deviation" in self.calls
        return (DirectedReference if full else RunReference)(self.calls, role)

    async def ask(self, endpoint: Endpoint, rows: Sequence[dict[str, Any]], role: str) -> Scores:
        """Scores of rows, in one flow: pauses would leave the engine's batch half empty."""
        with self.watch.progress(f"score {role}", total=len(rows), unit="rows") as bar:

            def each() -> None:
                if self.watch.stop:
                    raise Stopped("run.stopped", "stopped in the gate", hint="run the same command again")
                bar.advance()

            return await ask_rows(endpoint, rows, self.budget, each=each)

    async def asked(self, role: str, rows: Sequence[dict[str, Any]]) -> Scores:
        """Scores of rows by a service of their own."""
        with self.calls["serve"](self.tuned_by if role == "tuned" else role) as url:
            async with self.endpoint(url) as endpoint:
                return await self.ask(endpoint, rows, role)

    # ------------------------------------------------------------------ more rows while undecided

    def next_rows(self, looks: Mapping[str, int]) -> LookRows:
        """Rows that the abilities in `looks` add at that look: held-out rows first, then training rows."""
        held_out, training = by_ability(self.rows), []
        part = []
        for ability, look in looks.items():
            first, last = (0, *self.design.sizes(ability))[look : look + 2]
            own = held_out[ability]
            part += own[first:last]
            training += self.spare.get(ability, [])[max(0, first - len(own)) : max(0, last - len(own))]
        return LookRows(held_out=part, training=training)

    def worth_drawing(self, base: Scores, served: Scores) -> bool:
        """Not where the form has failed already, whatever more rows would show."""
        against = (against_base(base, served, a, self.settings, self.design) for a in self.design.abilities)
        return all(check.passed is not False for check in against)

    async def draw(
        self, tuned: Scores, served: Scores, more: Pair, looks: dict[str, int]
    ) -> tuple[Scores, Scores, Pair]:
        """More pairs of the abilities that are undecided against the tuned model; `looks` moves on.

        Held-out rows that the served form has answered for the base's sake are not asked again.
        """
        while after := self.undecided(tuned, served, more, looks):
            looks |= after
            rows = self.next_rows(after)
            self.watch.log("gate.more_rows", abilities=sorted(after), rows=len(rows.every))
            held_out, first = await self.again("tuned", rows)
            lacking, second = await self.again(
                "served", replace(rows, held_out=_unasked(rows.held_out, served))
            )
            tuned, served = tuned + held_out, served + lacking
            more = Pair(more.tuned + first, more.served + second)
        return tuned, served, more

    async def again(self, role: str, rows: LookRows) -> tuple[Scores, Scores]:
        """Scores of further rows, held-out and training ones, by a service that is started once more."""
        if not rows.every:
            return NOTHING, NOTHING
        scores = await self.asked(role, rows.every)
        held_out, training = divided(scores, len(rows.held_out))
        return await self.judged(held_out, rows.held_out), await self.judged(training, rows.training)

    def undecided(
        self, tuned: Scores, served: Scores, more: Pair, looks: Mapping[str, int]
    ) -> dict[str, int]:
        """The next look of each ability that is undecided and has rows left."""
        after = {}
        for ability, look in looks.items():
            both = (more.tuned, more.served)
            checks = against_tuned(tuned, served, ability, self.design, both, look)
            if checks[0].passed is None and look + 1 < len(self.design.sizes(ability)):
                after[ability] = look + 1
        return after

    # ------------------------------------------------------------------ the base and the judge

    async def base(self, served: Scores) -> tuple[Scores, Scores]:
        """The base's scores, and the served form's: more held-out rows where the base stays close."""
        answered = {row.row for row in served.rows}
        base = await self.base_scores(NOTHING, served, [row for row in self.rows if row["id"] in answered])
        close = [
            row
            for ability, own in by_ability(_unasked(self.rows, served)).items()
            if not self._decided(base, served, ability)
            for row in own
        ]
        if close:
            lacking, _ = await self.again("served", LookRows(held_out=close, training=()))
            served = served + lacking
            base = await self.base_scores(base, served, close)
        return base, served

    async def base_scores(self, scores: Scores, served: Scores, rows: Sequence[dict[str, Any]]) -> Scores:
        """Only as many rows an ability as decide: a look every BASE_LOOK rows, each at its own level."""
        with self.calls["serve"]("base") as url:
            async with self.endpoint(url) as endpoint:
                left = by_ability(rows)
                while left:
                    part = [row for own in left.values() for row in own[:BASE_LOOK]]
                    results = await self.ask(endpoint, part, "base")
                    scores = scores + await self.judged(results, part, None if self.judge else url)
                    left = {
                        a: own[BASE_LOOK:]
                        for a, own in left.items()
                        if own[BASE_LOOK:] and not self._decided(scores, served, a)
                    }
        return scores

    def _decided(self, base: Scores, served: Scores, ability: str) -> bool:
        """Passed, or worse for sure; a gain that is not shown yet may show in the next rows."""
        check = against_base(base, served, ability, self.settings, self.design)
        worse = check.high is not None and check.limit is not None and check.high < check.limit
        return (check.low or 0.0) > 0 or worse

    async def judged(
        self, scores: Scores, rows: Sequence[dict[str, Any]], base_url: str | None = None
    ) -> Scores:
        """The grades of the judge for rows that ask for one: the one the recipe names, else the base."""
        if not any(row.get("compare") == JUDGE for row in rows):
            return scores
        at = self.judge
        near: AbstractContextManager[str] = nullcontext(at.url if at else base_url or "")
        with near if at or base_url else self.calls["serve"]("base") as url:
            name, key = (at.model, at.key) if at else (None, self.settings.get("api_key"))
            async with Endpoint(url=url, model=name, key=key, concurrency=CONCURRENCY) as endpoint:
                with self.watch.progress("judge", total=None, unit="rows") as bar:
                    return await grading.graded(endpoint, rows, scores, self.grades, bar.advance)


@dataclass(frozen=True, slots=True)
class Pair:
    """Scores on training rows, which compare served with tuned and nothing else."""

    tuned: Scores
    served: Scores


@dataclass(frozen=True, slots=True)
class LookRows:
    """Rows of one look at one service."""

    held_out: Sequence[dict[str, Any]]
    training: Sequence[dict[str, Any]]

    @property
    def every(self) -> list[dict[str, Any]]:
        return [*self.held_out, *self.training]


@dataclass(frozen=True, slots=True)
class _Role:
    checks: tuple[Check, ...]
    scores: Scores
    more: Scores
    failed: bool
    cause: str | None
    why: str | None
    looked_at: Mapping[str, Any]


def _unasked(rows: Sequence[dict[str, Any]], scores: Scores) -> list[dict[str, Any]]:
    """The rows that `scores` has no result of."""
    answered = {row.row for row in scores.rows}
    return [row for row in rows if row["id"] not in answered]


def divided(scores: Scores, at: int) -> tuple[Scores, Scores]:
    """The first `at` rows and the rest."""
    parts = (slice(None, at), slice(at, None))
    first, rest = (replace(scores, rows=scores.rows[p], answers=scores.answers[p]) for p in parts)
    return first, rest


def mode_of(form: str) -> str:
    """How closely a form can be judged: int4_rtn as int4, bf16_kv8 (coarser caches) as int8."""
    first, _, rest = form.partition("_")
    return "int8" if rest.startswith("kv") and first != "int4" else MODES.get(first, "int8")


def _form(inputs: Inputs) -> str:
    """The compressed artefact's form; bf16 where the run compresses nothing."""
    artefact = inputs.artefacts.get("compressed")
    path = artefact.path("form.json") if artefact else None
    if path is None or not path.exists():
        return "bf16"
    document = json.loads(path.read_text("utf-8"))
    return str(document.get("form") or document.get("weights") or "bf16")
