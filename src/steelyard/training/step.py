"""The training step: the rows in order, an engine that learns them, a tuned model and its account out.

Which engine is a setting; what it is given (ids, masks, order) is the same for all.
"""

from __future__ import annotations

import json
from pathlib import Path

from steelyard.artefact import Draft, Figures, Inputs, Settings, Watch
from steelyard.errors import WrongUse
from steelyard.model import Tokenizer

from .engines import TrainJob, engine_of
from .packing import schedule
from .rows import COMPARED, Rows, read_rows

TAUGHT = "taught.json"


def train(inputs: Inputs, settings: Settings, out: Draft, watch: Watch) -> Figures:
    """Tune the artefact `base` on the artefact `dataset`; write the tuned model into `out`.

    Raises WrongUse where no row can be taught, CheckFailed where the loss or its gradient is no number,
    Stopped after a checkpoint when `watch.stop` is set, Lacking where the engine is not here.
    """
    engine = engine_of(settings.get("engine", "own"))
    base = inputs.artefacts["base"].path()
    rows = read_rows(inputs.artefacts["dataset"].path("train.jsonl"), Tokenizer(base), settings)
    examples = rows.examples
    lengths = [max(len(each.ids) for each in row.sequences) for row in examples]
    weights = [row.weight for row in examples]
    plan = schedule(lengths, settings, [row.ability for row in examples], weights)
    if not plan.steps:
        raise no_rows(rows, settings)
    account = rows.account(plan, settings.get("rows", "all"))
    watch.log("train.planned", steps=len(plan.steps), **account)
    held_out = held_out_of(inputs, base, settings)
    figures = engine.run(TrainJob(base, rows, plan, settings, held_out), out, watch)
    (out.folder / TAUGHT).write_text(json.dumps(account, indent=1, sort_keys=True) + "\n", "utf-8")
    return figures


def held_out_of(inputs: Inputs, base: Path, settings: Settings) -> Rows | None:
    """Answers to compare that were held out; None where the stage compares none."""
    path = inputs.artefacts["dataset"].path("test.jsonl")
    if settings.get("rows") not in COMPARED or not path.exists():
        return None
    return read_rows(path, Tokenizer(base), settings)


def no_rows(rows: Rows, settings: Settings) -> WrongUse:
    """Why nothing is left to teach, and what to do about the commonest reason."""
    reasons = ", ".join(f"{reason} {count}" for reason, count in rows.dropped.most_common())
    commonest = next(iter(rows.dropped.most_common(1)), ("", 0))[0]
    hint = {
        "too_long": "raise train.max_length, or set overlong: split",
        "not_in_texts": "stage: pt teaches texts; these rows are chats: write stage: sft",
        "not_in_chats": "texts are taught by stage: pt, pairs by stage: dpo; give chats for stage: sft",
        "not_in_pairs": "give rows with chosen and rejected answers, or leave this stage out",
        "not_in_labels": "give rows with a label or kto_tag, or leave this stage out",
    }.get(commonest, "mend the rows, or give more data")
    message = f"none of {len(rows.names)} rows can be taught at max_length {settings['max_length']}"
    return WrongUse("data.no_rows", f"{message}: {reasons}" if reasons else message, hint=hint)
