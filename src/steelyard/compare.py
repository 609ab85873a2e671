"""How an answer is compared with its reference. Pure.

Every metric: (answer, references) -> 0 to 1; white space at both ends never counts. The gate scores by it,
stage `grpo` rewards by it. Not here: grades that another model gives (gate/quality/grading.py).
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from .errors import WrongUse

Metric = Callable[[str, Sequence[str]], float]
ORDER, BETA = 6, 2.0  # chrF2 as in Popović (2015) and sacreBLEU


def exact(answer: str, references: Sequence[str]) -> float:
    return float(answer.strip() in {r.strip() for r in references})


def label(answer: str, references: Sequence[str]) -> float:
    """One word of a closed set: case and marks around it do not count, signs of its own do (-1, C++)."""
    return float(_bare(answer) in {_bare(r) for r in references})


def parsed(answer: str, references: Sequence[str]) -> float:
    """Equal as JSON values; key order and spacing do not count. Text that is no JSON is wrong."""
    return float(any(_same_json(answer, r) for r in references))


def _same_json(answer: str, reference: str) -> bool:
    try:
        return _same(json.loads(answer), json.loads(reference))
    except (ValueError, RecursionError):
        return False


def chrf(answer: str, references: Sequence[str]) -> float:
    """Character n-gram F-score (Popović 2015), the best over the references, 0 to 1."""
    return max((_chrf(answer, r) for r in references), default=0.0)


def contains(answer: str, references: Sequence[str]) -> float:
    """The reference stands in the answer as whole words; case and runs of white space do not count."""
    text = _even(answer)
    return float(any(_whole(words).search(text) is not None for words in map(_even, references) if words))


def number(answer: str, references: Sequence[str]) -> float:
    """The last number of the answer equals the last one of a reference, to nine digits. 12 % is 12."""
    got = last_number(answer)
    wanted = [n for n in map(last_number, references) if n is not None]
    return float(got is not None and any(math.isclose(got, n, rel_tol=1e-9, abs_tol=1e-12) for n in wanted))


METRICS: dict[str, Metric] = {
    "exact": exact,
    "text": exact,
    "json": parsed,
    "label": label,
    "contains": contains,
    "number": number,
    "chrf": chrf,
}
GRADED = {"chrf", "judge"}  # scores between right and wrong
JUDGE = "judge"


def right(row: Mapping[str, Any], answer: str | None, metric: str | None = None) -> float:
    """Score of one task row: its own `compare` unless `metric` says otherwise. No answer is wrong.

    A reference that calls tools is compared as its calls, whatever the metric.
    """
    if answer is None:
        return 0.0
    name = metric_of(row, metric)
    if name not in METRICS:
        names = ", ".join((*METRICS, JUDGE))
        raise WrongUse("gate.metric_unknown", f"{name!r} is no metric", hint=f"one of {names}")
    return METRICS[name](answer, references(row))


def metric_of(row: Mapping[str, Any], metric: str | None = None) -> str:
    return "json" if row["messages"][-1].get("tool_calls") else metric or row.get("compare") or "text"


def references(row: Mapping[str, Any]) -> list[str]:
    """The last assistant message, or its tool calls as JSON, and whatever else `accept` allows."""
    last = row["messages"][-1]
    first = called(last["tool_calls"]) if last.get("tool_calls") else last.get("content") or ""
    return [first, *(row.get("accept") or ())]


def called(calls: Sequence[Mapping[str, Any]]) -> str:
    """Tool calls as one JSON text: names and arguments in order, without the ids that a server makes up."""
    return json.dumps([_call(call.get("function") or call) for call in calls], ensure_ascii=False)


def _call(function: Mapping[str, Any]) -> dict[str, Any]:
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with suppress(ValueError):  # else compared as text
            arguments = json.loads(arguments or "{}")
    return {"name": function.get("name"), "arguments": arguments}


NUMBER = re.compile(
    r"""(?:(?<![A-Za-z0-9])[-+])?                                 # a hyphen in 10-12 is no sign
    (?:[1-9]\d{0,2}(?:,\d{3})+(?!,?\d)(?:\.\d+)?               # 1,234.5
    |(?P<commas>[1-9]\d{0,2}(?:\.\d{3})+,\d+(?!,?\d)             # 1.234,5
      |[1-9]\d{0,2}(?:\.\d{3}){2,}(?!\.?\d)                      # 1.234.567
      |(?<!\d,)\d+,\d+(?!,?\d))                                 # 3,14, and no list as 1,2,3
    |\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?""",
    re.VERBOSE,
)
THOUSANDS = re.compile("(?<=\\d)['\u2019\u00a0\u2009\u202f](?=\\d{3})")  # as in 1'234 and 1\u202f234
# What Unicode would spell out with digits, and no number here: a power (m\u00b2), a half, a unit (\u33a1).
SPELT = ("<super>", "<sub>", "<fraction>", "<square>")


def last_number(text: str) -> float | None:
    """The last number of a text; "1,234.5", "1.234,5", "3,14", full-width digits and U+2212 are read.

    One comma before three digits parts thousands, as in English. None where there is none, or one too large.
    """
    plain = "".join(map(_plain, THOUSANDS.sub("", text)))
    numbers = list(NUMBER.finditer(plain))
    if not numbers:
        return None
    digits, commas = numbers[-1][0], numbers[-1]["commas"]
    value = float(digits.replace(".", "").replace(",", ".") if commas else digits.replace(",", ""))
    return value if math.isfinite(value) else None


def _plain(char: str) -> str:
    if char.isascii():
        return char
    if char == "\u2212":
        return "-"
    digit = unicodedata.decimal(char, None)
    if digit is not None:
        return str(digit)
    return " " if unicodedata.decomposition(char).startswith(SPELT) else unicodedata.normalize("NFKC", char)


def _even(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


# Letters of the scripts whose words stand between spaces and take no endings from others (Latin, Greek,
# Cyrillic, Armenian), and digits.
LETTER = r"[^\W_\u0590-\u1dff\u2000-\U0010ffff]"


def _whole(words: str) -> re.Pattern[str]:
    """`words` not inside a longer word or number; scripts without spaces have no such border."""
    before = after = ""
    if re.match(LETTER, words[0]):
        before = rf"(?<!{LETTER})"
    if re.match(LETTER, words[-1]):
        after = rf"(?!{LETTER})"
    if words[0].isdecimal():  # 12 stands neither in 3.12 nor in -12
        before += r"(?<!\d[.,])(?<!^-)(?<! -)"
    if words[-1].isdecimal():
        after += r"(?![.,]\d)"
    return re.compile(before + re.escape(words) + after)


AROUND = {"Ps", "Pe", "Pi", "Pf", "Sk", "Zs", "Cc", "Cf"}  # brackets, quotes, white space
MARKS = ".,;:!?\u2026'\"\u00a1\u00bf\u00b7\u2022\u3001\u3002\uff0c\uff1b\uff1a\uff01\uff1f\ufe0f"
MARKUP = ("**", "__", "*", "_", "`", "~")


def _bare(text: str) -> str:
    """Without marks, brackets, quotes and markup around it; marks alone are what they are."""
    whole = text.strip().casefold()
    bare, before = re.sub(r"^[-*#\u2013\u2014]+\s+|\s+[-\u2013\u2014]+$", "", whole), ""
    while bare != before:
        before = bare
        bare = _within_markup(_within_marks(bare))
    return bare or whole


def _within_marks(text: str) -> str:
    """An emoji beside the label is a mark too, alone it is the label."""
    shown = [i for i, c in enumerate(text) if not (c in MARKS or unicodedata.category(c) in AROUND)]
    inner = [i for i in shown if unicodedata.category(text[i]) != "So"] or shown
    return text[inner[0] : inner[-1] + 1] if inner else ""


def _within_markup(text: str) -> str:
    """A sign at one end alone is the label's own: C++, A*, <5."""
    for mark in MARKUP:
        if len(text) > 2 * len(mark) and text.startswith(mark) and text.endswith(mark):
            return text[len(mark) : -len(mark)]
    return text[1:-1] if len(text) > 2 and text[0] == "<" and text[-1] == ">" else text


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
