"""How an answer is compared with its reference. Pure.

Every metric: (answer, references) -> 0 to 1; white space at both ends never counts.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import WrongUse

Metric = Callable[[str, Sequence[str]], float]
ORDER, BETA = 6, 2.0  # chrF2 as in Popović (2015) and sacreBLEU


def exact(answer: str, references: Sequence[str]) -> float:
    return float(answer.strip() in {r.strip() for r in references})


def label(answer: str, references: Sequence[str]) -> float:
    """One word of a closed set: case and punctuation around it do not count."""
    return float(_bare(answer) in {_bare(r) for r in references})


def parsed(answer: str, references: Sequence[str]) -> float:
    """Equal as JSON values; key order and spacing do not count. Text that is no JSON is wrong."""
    try:
        got = json.loads(answer)
        return float(any(_same(got, json.loads(r)) for r in references))
    except (ValueError, RecursionError):
        return 0.0


def chrf(answer: str, references: Sequence[str]) -> float:
    """Character n-gram F-score (Popović 2015), the best over the references, 0 to 1."""
    return max((_chrf(answer, r) for r in references), default=0.0)


METRICS: dict[str, Metric] = {"exact": exact, "text": exact, "json": parsed, "label": label, "chrf": chrf}


def right(row: Mapping[str, Any], answer: str | None, metric: str | None = None) -> float:
    """Score of one task row: its own `compare` unless `metric` says otherwise. No answer is wrong."""
    if answer is None:
        return 0.0
    name = metric or row.get("compare") or "text"
    if name not in METRICS:
        raise WrongUse("gate.metric_unknown", f"{name!r} is no metric", hint=f"one of {', '.join(METRICS)}")
    return METRICS[name](answer, references(row))


def references(row: Mapping[str, Any]) -> list[str]:
    """The last assistant message and whatever else `accept` allows."""
    return [row["messages"][-1]["content"], *row.get("accept", ())]


def _bare(text: str) -> str:
    return re.sub(r"^[\W_]+|[\W_]+$", "", text.strip()).casefold()


def _same(a: Any, b: Any) -> bool:
    """Equality in which true is not 1 (Python says it is) and 1.0 is 1 (JSON has one number)."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def _chrf(answer: str, reference: str) -> float:
    hyp, ref = ("".join(t.split()) for t in (answer, reference))
    precisions, recalls = [], []
    for n in range(1, ORDER + 1):
        got, wanted = _grams(hyp, n), _grams(ref, n)
        if got and wanted:  # sacreBLEU's "effective order": short texts have no long n-grams
            common = sum((got & wanted).values())
            precisions.append(common / got.total())
            recalls.append(common / wanted.total())
    if not precisions:
        return float(hyp == ref)
    p, r = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return (1 + BETA**2) * p * r / (BETA**2 * p + r) if p + r else 0.0


def _grams(text: str, n: int) -> Counter[str]:
    return Counter(text[i : i + n] for i in range(len(text) - n + 1))
