"""The gate as a step of a run: parity of tuned and served, then quality against base and tuned.

It talks to services that `run` starts (inputs.calls["serve"]) and asks `run` for the exact reference.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..artefact import Draft, Figures, Inputs, Settings, Watch
from ..errors import CheckFailed, Stopped, Where, WrongUse
from .endpoint import Endpoint
from .quality import allowed_loss, paired, quality_checks
from .reference import Reference
from .scores import Scores, ask_rows, load_tasks, token_budget
from .standalone import declared_temperature, parity
from .statistics import EARLY_CONFIDENCE, verdict_on
from .verdict import Check, Verdict

if TYPE_CHECKING:
    from ..model import Tokenizer

ROWS = 400  # an ability: a loss of two points shows in no fewer
LOOK_ROWS = 48  # of the base between two looks: its gap is wide, most rows would be wasted
# By the first part of a form's name.
MODES = {"f32": "exact", "bf16": "fast", "f16": "fast", "int8": "int8", "int4": "int4"}
CONCURRENCY = 64  # the engine's whole batch: nobody waits for the first token here


class GateFailed(CheckFailed):
    """A gate that failed or is undecided; `verdict` holds all that was found."""

    def __init__(self, verdict: Verdict, message: str, hint: str) -> None:
        super().__init__(
            f"gate.{verdict.verdict}", message, where=Where(field="gate"), why=verdict.why, hint=hint
        )
        self.verdict = verdict


def judge(inputs: Inputs, settings: Settings, out: Draft, watch: Watch) -> Figures:
    """Write verdict.json; raise GateFailed (exit 4) unless every check passed.

    inputs.artefacts: dataset (test.jsonl), checkpoint, compressed (form.json). inputs.calls: serve(role) ->
    context manager with a url, role base | tuned | served; reference(role, rows of ids) -> arrays [T, 3].
    settings: the recipe's `gate` section, with `seed` and, where the services ask for one, `api_key`.
    """
    verdict = asyncio.run(_Judge(inputs, settings, watch).run())
    text = json.dumps(verdict.as_json(), indent=2, sort_keys=True, ensure_ascii=False)
    (out.folder / "verdict.json").write_text(text, encoding="utf-8")
    watch.log("gate.verdict", verdict=verdict.verdict, cause=verdict.cause, checks=len(verdict.checks))
    if verdict.verdict != "passed":
        raise _failure(verdict)
    return _figures(verdict)


def _failure(verdict: Verdict) -> GateFailed:
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
    return GateFailed(verdict, message, _hint(worst, verdict))


def _hint(worst: Check, verdict: Verdict) -> str:
    if worst.passed is None:
        return (
            "more test rows (clean.test_share, gate.rows, gate.abilities.NAME.eval) or a wider gate.tolerance"
        )
    if worst.name.startswith("against_tuned") or verdict.cause == "precision":
        return "the compressed form loses too much: compress: {weights: bf16}"
    if worst.name.startswith(("min/", "against_base")):
        return "train longer or on more rows of this ability, or lower its threshold in gate"
    return "nothing was served; the report lists every check"


def _figures(verdict: Verdict) -> Figures:
    rows = sum(found["rows"] for found in verdict.details.values())
    scores = {
        f"score_{role}/{ability}": value
        for role, found in verdict.scores.items()
        for ability, value in found.items()
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
        found = load_tasks(_chats(inputs))
        self.rows = sampled(found, int(settings.get("rows", ROWS)), self.seed)
        self._with_compare()
        self.budget = token_budget(self.rows, None, lambda text: len(self.tokenizer.encode(text)))

    def _with_compare(self) -> None:
        """The recipe's `compare` of an ability counts where a row has none of its own."""
        own = self.settings.get("abilities") or {}
        for row in self.rows:
            compare = (own.get(row["ability"]) or {}).get("compare")
            if compare and not row.get("compare"):
                row["compare"] = compare

    async def run(self) -> Verdict:
        found: list[Check] = []
        tuned = await self.role("tuned", "exact")
        found += tuned.checks
        if tuned.failed:
            return Verdict(checks=tuple(found), cause=tuned.cause, why=tuned.why)
        served = await self.role("served", mode_of(self.form))
        found += served.checks
        if served.failed:
            return Verdict(checks=tuple(found), cause=served.cause, why=served.why)
        base = await self.base(served.scores)
        found += quality_checks(base, tuned.scores, served.scores, self.settings)
        scores = {"base": base, "tuned": tuned.scores, "served": served.scores}
        details = {role: s.as_json() for role, s in scores.items()}
        return Verdict(
            checks=tuple(found), scores={r: d["scores"] for r, d in details.items()}, details=details
        )

    async def role(self, role: str, own_mode: str) -> _Role:
        """Parity, then the scores, of one service; scores are spared where parity failed."""
        asked = self.settings.get("parity", "auto")
        mode = own_mode if asked in ("auto", "off") else asked
        with self.calls["serve"](role) as url:
            async with self.endpoint(url) as endpoint:
                verdict = Verdict(checks=())
                if asked != "off":
                    verdict = await self.parity(endpoint, mode, role)
                checks = tuple(replace(c, name=f"{role}/{c.name}") for c in verdict.checks)
                failed = verdict.verdict == "failed"
                scores = Scores(rows=()) if failed else await self.ask(endpoint, self.rows, role)
        return _Role(checks, scores, failed, verdict.cause, verdict.why)

    def endpoint(self, url: str) -> Endpoint:
        return Endpoint(url=url, key=self.settings.get("api_key"), concurrency=CONCURRENCY)

    async def parity(self, endpoint: Endpoint, mode: str, role: str) -> Verdict:
        """A form of 4 bits is compared with its own rounded weights: what rounding costs, the scores tell."""
        rounded = role == "served" and mode == "int4"
        return await parity(
            endpoint,
            self.tokenizer,
            self.reference("served" if rounded else "tuned"),
            rows=self.rows,
            mode="int4_form" if rounded else mode,
            seed=self.seed,
            base=self.reference("base_rounded" if rounded else "base"),
            declared=self.declared(),
            defaults=role == "served",
        )

    def declared(self) -> float | None:
        """The temperature of requests that name none: the recipe's, else the model's."""
        own = self.settings.get("temperature")
        return declared_temperature(self.folder) if own is None else float(own)

    def reference(self, role: str) -> Reference:
        def reference(sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
            plain = [[int(i) for i in s] for s in sequences]
            return [np.asarray(a, float) for a in self.calls["reference"](role, plain)]

        return reference

    async def ask(self, endpoint: Endpoint, rows: Sequence[dict[str, Any]], role: str) -> Scores:
        """Scores of rows, in one flow: pauses would leave the engine's batch half empty."""
        with self.watch.progress(f"score {role}", total=len(rows), unit="rows") as bar:

            def each() -> None:
                if self.watch.stop:
                    raise Stopped("run.stopped", "stopped in the gate", hint="run the same command again")
                bar.advance()

            return await ask_rows(endpoint, rows, self.budget, each=each)

    async def base(self, served: Scores) -> Scores:
        """Only as many rows an ability as decide: looked at every LOOK_ROWS, at a stricter confidence."""
        scores = Scores(rows=())
        with self.calls["serve"]("base") as url:
            async with self.endpoint(url) as endpoint:
                left = by_ability(self.rows)
                while left:
                    part = [row for own in left.values() for row in own[:LOOK_ROWS]]
                    scores = scores + await self.ask(endpoint, part, "base")
                    left = {
                        a: own[LOOK_ROWS:]
                        for a, own in left.items()
                        if own[LOOK_ROWS:] and not self._decided(scores, served, a)
                    }
        return scores

    def _decided(self, base: Scores, served: Scores, ability: str) -> bool:
        change = paired(base, served, ability, EARLY_CONFIDENCE)
        loss = allowed_loss(self.settings, ability)
        return change is not None and verdict_on(change, loss) != "undecided"


class _Role:
    def __init__(
        self, checks: tuple[Check, ...], scores: Scores, failed: bool, cause: str | None, why: str | None
    ) -> None:
        self.checks, self.scores, self.failed, self.cause, self.why = checks, scores, failed, cause, why


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
    found = json.loads(path.read_text("utf-8"))
    return str(found.get("form") or found.get("weights") or "bf16")


def _chats(inputs: Inputs) -> list[dict[str, Any]]:
    """Test rows that can be asked as a chat; plain texts have no answer to compare."""
    text = inputs.artefacts["dataset"].path("test.jsonl").read_text("utf-8")
    rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    chats = [row for row in rows if row.get("messages")]
    if not chats:
        raise WrongUse(
            "gate.no_rows",
            "the data set has no test rows with a reference answer",
            hint="set clean.test_share above 0, or gate.abilities.NAME.eval",
        )
    return chats


def sampled(rows: Sequence[Mapping[str, Any]], count: int, seed: int) -> list[dict[str, Any]]:
    """At most `count` rows an ability, drawn by `seed`, the abilities in turn: any part is a fair part."""
    draw = random.Random(seed)
    drawn = [draw.sample(own, min(count, len(own))) for _, own in sorted(by_ability(rows).items())]
    longest = max(map(len, drawn), default=0)
    return [dict(own[i]) for i in range(longest) for own in drawn if i < len(own)]


def by_ability(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for row in rows:
        found.setdefault(row["ability"], []).append(row)
    return found
