"""Nothing lost that nobody trained: perplexity of fixed texts and fixed simple questions, base against tuned.

Both by the exact reference, so that no service and no rounding is in it; what is served is held against the
tuned model by parity. Not here: the texts and questions (general.py of the package).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..general import general_probes, general_texts, is_right
from .base.verdict import Check
from .quality.statistics import difference, verdict_on
from .reference.arrays import LOGPROB, PromptAnswer, Reference

if TYPE_CHECKING:
    from ..model import Tokenizer

Z = 1.645  # of each end of the interval: one-sided 95 %, as the gate's other intervals


def general_checks(
    base: Reference, tuned: Reference, tokenizer: Tokenizer, limit: float
) -> tuple[list[Check], dict[str, Any]]:
    """The checks, and the figures behind them. `limit`: the share by which perplexity may grow, and the share
    of the questions that may be lost."""
    asked = questions(tokenizer)
    texts = len(general_texts())
    before, after = [[array[:-1, LOGPROB] for array in reference(asked)] for reference in (base, tuned)]
    answered = [_right(logprobs[texts:]) for logprobs in (before, after)]
    checks = [_perplexity(before[:texts], after[:texts], limit), _answers(answered[0], answered[1], limit)]
    return checks, _figures(before[:texts], after[:texts], answered)


def questions(tokenizer: Tokenizer) -> list[PromptAnswer]:
    """The texts, each after its first token; then every option of every question."""
    texts = [tokenizer.encode(text) for text in general_texts()]
    options = [
        (tokenizer.encode(probe.prompt), tokenizer.encode(option))
        for probe in general_probes()
        for option in probe.options
    ]
    return [*((ids[:1], ids[1:]) for ids in texts), *options]


def _right(logprobs: Sequence[Any]) -> list[float]:
    """1 for each question whose right option is the likeliest."""
    left = iter(logprobs)
    return [float(is_right([list(next(left)) for _ in probe.options])) for probe in general_probes()]


def _perplexity(before: Sequence[Any], after: Sequence[Any], limit: float) -> Check:
    """Growth as a share. The interval is over texts: that of a ratio of means (Cochran 1977, section 6.4)."""
    lost = [float(old.sum() - new.sum()) for old, new in zip(before, after, strict=True)]
    tokens = [len(text) for text in before]
    mean, each = sum(lost) / sum(tokens), sum(tokens) / len(tokens)
    spread = sum((one - mean * count) ** 2 for one, count in zip(lost, tokens, strict=True))
    half = Z * math.sqrt(spread / (len(lost) * (len(lost) - 1))) / each
    value, low, high = (math.expm1(nats) for nats in (mean, mean - half, mean + half))
    was, now = (_ppl(texts) for texts in (before, after))
    text = (
        f"perplexity of general text {was:.4g}, of the base, to {now:.4g}: {value:+.1%}, {limit:.1%} may be"
    )
    return Check(
        name="general_perplexity",
        passed=value <= limit,
        value=value,
        low=low,
        high=high,
        limit=limit,
        example=text,
    )


def _answers(before: Sequence[float], after: Sequence[float], limit: float) -> Check:
    """Failed where a loss beyond the limit is shown: forty questions show no small one."""
    change = difference(before, after)
    was, now = (sum(answers) / len(answers) for answers in (before, after))
    text = f"of {len(before)} simple questions {was:.0%} right by the base, {now:.0%} now"
    return Check(
        name="general_questions",
        passed=verdict_on(change, limit) != "failed",
        value=change.value,
        low=change.low,
        high=change.high,
        limit=-limit,
        example=text,
    )


def _figures(
    before: Sequence[Any], after: Sequence[Any], answered: Sequence[Sequence[float]]
) -> dict[str, Any]:
    return {
        "perplexity": {"base": _ppl(before), "tuned": _ppl(after)},
        "questions": {role: sum(a) / len(a) for role, a in zip(("base", "tuned"), answered, strict=True)},
        "texts": len(before),
        "tokens": sum(len(text) for text in before),
    }


def _ppl(texts: Sequence[Any]) -> float:
    return math.exp(-sum(float(text.sum()) for text in texts) / sum(len(text) for text in texts))
