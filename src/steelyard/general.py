"""What nobody trained: a small fixed set of plain texts and simple questions, in English and Chinese.

A base's perplexity on the texts and the share of questions that it answers are compared before and after a
training. They tell a loss of ability that no row of the user's shows; of ability itself they say little.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean


@dataclass(frozen=True, slots=True)
class Probe:
    """A sentence to end; the first of `options` is right."""

    prompt: str
    options: tuple[str, ...]


@cache
def general_texts() -> tuple[str, ...]:
    return tuple(_document()["texts"])


@cache
def general_probes() -> tuple[Probe, ...]:
    return tuple(Probe(each["prompt"], tuple(each["options"])) for each in _document()["probes"])


def _document() -> dict[str, list]:  # type: ignore[type-arg]
    return dict(json.loads(Path(__file__).with_name("general.json").read_text(encoding="utf-8")))


def is_right(options: Sequence[Sequence[float]]) -> bool:
    """Of one question: has its first option the highest mean log-probability a token?"""
    means = [fmean(logprobs) for logprobs in options]
    return all(means[0] > mean for mean in means[1:])
