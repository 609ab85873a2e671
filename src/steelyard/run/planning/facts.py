"""What a plan is made of: the base model, counts of the data, this machine's speed; by children."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from typing import Any

from ...artefact import Artefact, Watch, adopt, code_of, unchanged_sha256
from ...errors import Where, WrongUse
from ...hardware import UNDISTURBED, Calibration, Machine, measure
from ...model import ModelSource
from ...places import cache_folder
from ...planner import DataFacts
from ...recipe import TEACHES, Recipe
from ..child.children import call_order, in_child
from .sources import data_settings

# What is measured of this machine, with the seconds it may take; all together under a minute.
PROBES: dict[str, tuple[str, dict[str, Any]]] = {
    "training": ("training:probe", {"limit_s": 24}),
    "training_full": ("training:probe", {"limit_s": 20, "finetuning_type": "full"}),
    "serving": ("serving:probe", {"limit_s": 18}),
}


def base_of(source: ModelSource, watch: Watch) -> Artefact:
    """The base model as a Hugging Face folder: its own, or a GGUF's, converted once into the cache."""
    if source.kind == "hf":
        return adopt(source.path)
    content = [unchanged_sha256(source.path), code_of("model:to_hf")]
    name = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    folder = cache_folder() / "converted" / name
    if not folder.exists():
        beside = folder.with_name(f".{folder.name}-{os.getpid()}")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        watch.log("model.convert", source=source.name)
        in_child(call_order("run.calls:convert", name=str(source.path), out=str(beside)), watch)
        try:
            beside.rename(folder)
        except OSError:
            shutil.rmtree(beside, ignore_errors=True)
            if not folder.is_dir():  # else another run was sooner, with equal bytes
                raise
    return adopt(folder)


def count(recipe: Recipe, base: Artefact, watch: Watch) -> DataFacts:
    """Rows, tokens and lengths of the recipe's data, counted with the base's own tokenizer.

    A model that is served as it is has none.
    """
    if not recipe.data:
        return DataFacts()
    facts = in_child(call_order("run.calls:count", order=data_settings(recipe), base=str(base.folder)), watch)
    return with_rows_to_teach(recipe, DataFacts(**facts))


def with_rows_to_teach(recipe: Recipe, facts: DataFacts) -> DataFacts:
    """The same facts. Raises WrongUse where a stage has no row of its kind: pt teaches texts, sft chats, dpo
    and orpo pairs, kto rated answers.

    Known before the first step, so refused before it.
    """
    stages = [stage.stage for stage in recipe.train]
    for number, stage in enumerate(stages):
        wanted = TEACHES[stage]
        of_kind = rows_of(facts, wanted, alone=wanted != "chats" or "pt" in stages)
        if facts.rows and of_kind == 0:
            raise WrongUse(
                "train.no_rows",
                f"stage: {stage} teaches {KIND_WORDS[wanted]}, and none of the {facts.rows} rows is one",
                where=Where(str(recipe.path), field=f"train.{number}.stage"),
                hint=f"{TO_GIVE[wanted]}, or leave this stage out",
            )
    return facts


KIND_WORDS = {"texts": "texts", "chats": "chats", "pairs": "pairs of answers", "labels": "rated answers"}
TO_GIVE = {
    "texts": "write stage: sft, give rows of text",
    "chats": "give rows of messages",
    "pairs": "give rows with a chosen and a rejected answer",
    "labels": "give rows with a label (true or false) of their answer",
}


def rows_of(facts: DataFacts, kind: str, alone: bool) -> int | None:
    """Rows of a kind, None where nobody counted; of chats, where they are not taught alone, texts too."""
    if kind != "chats":
        return getattr(facts, kind)
    if facts.texts is None:
        return None
    others = (facts.pairs or 0) + (facts.labels or 0) + (facts.texts if alone else 0)
    return facts.rows - others


def calibrate(machine: Machine, finetuning_types: Iterable[str], watch: Watch) -> Calibration:
    """What this machine does in a second; measured once, then read from the cache.

    The steps of full fine-tuning are measured where a job has some.
    """
    names = PROBES if "full" in finetuning_types else PROBES.keys() - {"training_full"}
    probes = {
        name: lambda call=call, more=more: in_child(call_order(call, **more), watch)
        for name, (call, more) in PROBES.items()
        if name in names
    }
    with watch.progress("calibrate", total=None, unit="s") as bar:
        calibration = measure(machine, probes)
        bar.advance(calibration.measured_s)
    for probe, why in calibration.skipped.items():
        watch.log("calibrate.skipped", probe=probe, why=why)
    if calibration.share < UNDISTURBED:
        watch.log("calibrate.disturbed", share_of_cores=calibration.share, tries=dict(calibration.tries))
    return calibration
