"""What a mix that follows its abilities, and a lift of one, add to a stage: probes, looks, tries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import ceil
from typing import Any

from ..job.abilities import GENERAL_TOKENS, held_rows
from ..job.facts import DataFacts
from .local_train import Packed

LOOKS = 10  # of a stage (training/steering/validation.py)
FORWARD = 0.4  # of the time of a micro-batch: forward alone, with the head on few tokens
# Passes over the lifted ability's rows that a way takes: two of them take as many rows of the others, which
# one reads once more for what the base says of them.
PASSES = {"alone": 1.0, "gentle": 1.0, "near": 1.4, "replay": 2.0, "kl": 2.4}
MERGED_LOOKS = 4  # of each way of merging: its weights


def tried(run: Packed, settings: Mapping[str, Any], facts: DataFacts) -> Packed:
    """The stage with all ways of a lift trained one after the other."""
    if "lift" not in settings:
        return run
    lift = settings["lift"]
    share = facts.abilities.get(lift["ability"], 0) / max(1, facts.rows)
    passes = share * sum(PASSES.get(route, 0.0) for route in lift["routes"])
    return replace(run, steps=max(1, ceil(run.steps * passes)), tokens=run.tokens * passes)


def looking_s(
    settings: Mapping[str, Any], facts: DataFacts, run: Packed, step_s: float, micro_s: float
) -> dict[str, float]:
    """Seconds of probes and of looks at held-out rows."""
    token_s = FORWARD * micro_s / max(1.0, run.micro_tokens)
    if "lift" in settings:
        routes = settings["lift"]["routes"]
        looks = 1 + sum(1 if route in PASSES else MERGED_LOOKS for route in routes)
        return {"looks": looks * token_s * (_look_tokens(facts, settings) + GENERAL_TOKENS)}
    if "steer" not in settings:
        return {}
    abilities, steps = len(settings["steer"]["aims"]), settings["steer"]["probe_steps"]
    tokens = (LOOKS + 1 + abilities) * _look_tokens(facts, settings) + (1 + abilities) * GENERAL_TOKENS
    return {"probes": abilities * steps * step_s, "looks": tokens * token_s}


def _look_tokens(facts: DataFacts, settings: Mapping[str, Any]) -> float:
    return held_rows(facts, settings) * facts.mean_length
