"""A training of several abilities whose mix follows them: what is held out, probed, aimed at, and told after.

`settings["steer"]`: {"probe_steps": n, "aims": {ability: {"target"?, "forget"?, "fixed"?}}}. Not here:
the rule (steering/mix.py), the probes (interference.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from steelyard.artefact import Draft, Settings, Watch
from steelyard.errors import Where, WrongUse
from steelyard.model import Tokenizer

from ..engines.protocol import TrainJob
from ..packing import Schedule
from ..rows import Rows
from ..steering.looks import GENERAL, general_examples
from ..steering.mix import Aim, Steering, by_ability, shares_of, start_weights
from .interference import FILE, expected, interference, proposal


def check_rows(rows: Rows, abilities: Iterable[str]) -> None:
    """Raises WrongUse for an ability that has no row left to teach."""
    taught = {example.ability for example in rows.examples}
    for ability in abilities:
        if ability not in taught:
            reasons = ", ".join(f"{reason} {count}" for reason, count in rows.dropped.most_common())
            raise WrongUse(
                "train.ability_without_rows",
                f"the ability {ability} has no row that can be taught",
                where=Where(field=f"mix.{ability}"),
                why=f"dropped: {reasons}" if reasons else None,
                hint="give rows of this ability, or leave it out of data and mix",
            )


def first_mix(rows: Rows, settings: Settings) -> dict[str, float]:
    """The shares before the first look: fixed ones as they stand, the others alike."""
    fixed = _fixed(settings)
    aims = {ability: Aim(0.0, fixed=share) for ability, share in fixed.items()}
    return shares_of(start_weights(_abilities(rows), fixed), aims)


def _fixed(settings: Settings) -> dict[str, float]:
    aims = settings["steer"]["aims"]
    return {ability: aim["fixed"] for ability, aim in aims.items() if "fixed" in aim}


def _abilities(rows: Rows) -> set[str]:
    return {example.ability for example in rows.examples}


def steered_job(job: TrainJob, tokenizer: Tokenizer, out: Draft, watch: Watch) -> tuple[TrainJob, Any]:
    """The same job with a mix that follows the looks, and the document of its probes."""
    held = {**by_ability(job.rows.kept_back), GENERAL: general_examples(tokenizer)}
    document = interference(job, held, out, watch)
    examples = job.rows.examples
    steering = Steering(
        plan=job.plan,
        start=start_weights(_abilities(job.rows), _fixed(job.settings)),
        aims=aims_of(job, document),
        lengths=[len(example.ids) for example in examples],
        settings=job.settings,
        abilities=[example.ability for example in examples],
        weights=[example.weight for example in examples],
    )
    return replace(job, steering=steering, held=by_ability(job.rows.kept_back)), document


def aims_of(job: TrainJob, document: Mapping[str, Any]) -> dict[str, Aim]:
    """What each ability is compared with: what it was, where it is kept, else what it could reach."""
    asked = job.settings["steer"]["aims"]
    whole = sum(len(example.ids) for example in job.rows.examples)
    aims = {}
    for ability, examples in by_ability(job.rows.examples).items():
        own = asked.get(ability, {})
        alone = job.plan.tokens * sum(len(example.ids) for example in examples) / whole
        before = document["before"].get(ability, {}).get("loss")
        kept = "forget" in own and before is not None
        reference = before if kept else expected(document, ability, alone)
        aims[ability] = Aim(reference, before, own.get("target"), own.get("fixed"))
    return aims


def finished(job: TrainJob, document: Mapping[str, Any], folder: Path) -> Schedule:
    """Write interference.json into the artefact; the schedule that was trained in the end."""
    assert job.steering is not None
    lines = (folder / "curve.jsonl").read_text("utf-8").splitlines()
    curve = [json.loads(line) for line in lines]
    aims = {ability: _aim_document(aim) for ability, aim in job.steering.aims.items()}
    text = {**document, "proposal": proposal(document), "aims": aims, "end": _last(curve)}
    (folder / FILE).write_text(json.dumps(text, indent=1, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")
    return job.steering.schedule(curve)


def _aim_document(aim: Aim) -> dict[str, float]:
    fields = {"reference": aim.reference, "target": aim.target, "fixed": aim.fixed}
    return {name: value for name, value in fields.items() if value is not None and value != float("inf")}


def _last(curve: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the last look: loss and right answers of each ability, and the mix that would come next."""
    looked = [point for point in curve if "ability_loss" in point]
    names = ("ability_loss", "ability_right", "mix")
    return {name: looked[-1][name] for name in names if name in looked[-1]} if looked else {}
