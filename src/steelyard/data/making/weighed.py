"""What rated answers come to: which ratings count, and the rows that they teach. Pure.

No rater decides alone: each has at most `per_rater` ratings that count, what raters say against each other
counts where two thirds of them agree and else for nobody, and a rater who rates again has one voice, the
last. in = kept + dropped. Rows of ratings say `made: true`, as a model wrote their answers: no gate judges by
them.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from ..row import Message, Row, text_hash
from .rated import Fault, Rating, key_of_answer

AGREE = 2 / 3  # of those who say something of an answer: a lone voice among three is outvoted
PAIRS_PER_PROMPT = 4  # a prompt with many answers must not be most of what is compared
KINDS = ("chats", "pairs", "labels")  # of rows: what stages of training teach


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """`abilities`: the recipe's; a rating that names none is of the first. `teaches`: of KINDS."""

    per_rater: int
    abilities: tuple[str, ...]
    teaches: frozenset[str]
    now_s: float
    keep_s: float | None = None  # a rating that is older counts for nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedRow:
    """A row as a file of data has it; `hash` names its text as the lineage does."""

    ability: str
    kind: str  # chats | pairs | labels
    fields: dict[str, Any]
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """`account`: {"read", "kept", "dropped", "reasons", "good", "bad", "corrected", "raters", "rows"}."""

    rows: tuple[RatedRow, ...]
    account: dict[str, Any]


def weigh(ratings: Sequence[Rating], faults: Sequence[Fault], rules: Rules) -> Weighed:
    """The rows that these ratings teach, in the order of their text, and the account."""
    dropped = Counter(fault.kind for fault in faults)
    read, raters = len(ratings) + len(faults), len({one.rater for one in ratings})
    left: Sequence[Rating] = ratings
    for reason, drop in RULES.items():
        gone = drop(left, rules)
        dropped[reason] += len(gone)
        left = [one for number, one in enumerate(left) if number not in gone]
    rows, left_out = rows_of(left, rules)
    dropped["teaches_nothing"] = left_out
    kept = len(left) - left_out
    return Weighed(
        rows=rows,
        account={
            "read": read,
            "kept": kept,
            "dropped": dropped.total(),
            "reasons": {reason: count for reason, count in sorted(dropped.items()) if count},
            "good": sum(one.good for one in ratings),
            "bad": sum(not one.good for one in ratings),
            "corrected": sum(one.correction is not None for one in ratings),
            "raters": raters,
            "rows": dict(sorted(Counter(row.kind for row in rows).items())),
        },
    )


# ------------------------------------------------------------------ which ratings count: numbers of those
# that do not


def too_old(ratings: Sequence[Rating], rules: Rules) -> set[int]:
    if rules.keep_s is None:
        return set()
    since = rules.now_s - rules.keep_s
    return {n for n, one in enumerate(ratings) if one.at_s is not None and one.at_s < since}


def other_ability(ratings: Sequence[Rating], rules: Rules) -> set[int]:
    return {n for n, one in enumerate(ratings) if one.ability not in (None, *rules.abilities)}


def rated_again(ratings: Sequence[Rating], rules: Rules) -> set[int]:
    """All but a rater's last word on an answer: by the time that lines say, else in their order."""
    order = sorted(range(len(ratings)), key=lambda n: (ratings[n].at_s or 0.0, n))
    last = {voice(ratings[n]): n for n in order}
    return set(range(len(ratings))) - set(last.values())


def voice(one: Rating) -> tuple[str, bytes, bytes]:
    return one.rater, one.asked, one.answered


def above_per_rater(ratings: Sequence[Rating], rules: Rules) -> set[int]:
    """Which ratings of a rater count is decided by hash: neither order nor haste has them chosen."""
    of_rater: dict[str, list[int]] = defaultdict(list)
    for number, one in enumerate(ratings):
        of_rater[one.rater].append(number)
    gone: set[int] = set()
    for numbers in of_rater.values():
        numbers.sort(key=lambda n: hashlib.sha256(ratings[n].asked + ratings[n].answered).digest())
        gone |= set(numbers[rules.per_rater :])
    return gone


def contradiction(ratings: Sequence[Rating], rules: Rules) -> set[int]:
    """An answer is called good and bad, or a prompt has several corrections, and none prevails."""
    return {n for group in said(ratings) for n in losing(group, prevailing(group, ratings))}


def outvoted(ratings: Sequence[Rating], rules: Rules) -> set[int]:
    settled = [(group, prevailing(group, ratings)) for group in said(ratings)]
    return {n for group, wins in settled if wins is not None for n in losing(group, wins)}


def losing(group: dict[Any, list[int]], wins: Any) -> Iterator[int]:
    """Who says another thing than what prevails; all of them where nothing does."""
    return (n for what, numbers in group.items() if what != wins for n in numbers)


def said(ratings: Sequence[Rating]) -> list[dict[Any, list[int]]]:
    """What is said of the same thing: of an answer good or bad, of a prompt which correction is right.

    A correction says of its own text that it is good.
    """
    answers: dict[Any, dict[Any, list[int]]] = defaultdict(lambda: defaultdict(list))
    corrections: dict[Any, dict[Any, list[int]]] = defaultdict(lambda: defaultdict(list))
    for n, one in enumerate(ratings):
        answers[one.asked, one.answered][one.good].append(n)
        if one.correction is not None:
            right = key_of_answer(one.correction)
            answers[one.asked, right][True].append(n)
            corrections[one.asked][right].append(n)
    return [group for group in (*answers.values(), *corrections.values()) if len(group) > 1]


def prevailing(group: dict[Any, list[int]], ratings: Sequence[Rating]) -> Any:
    """What at least two thirds of the raters say, None where that is nothing. Who says the same of many
    answers to a prompt, which he may have made up, is one voice."""
    voices = {what: len({ratings[n].rater for n in numbers}) for what, numbers in group.items()}
    what, most = max(voices.items(), key=lambda one: one[1])
    return what if most >= AGREE * sum(voices.values()) else None


# In this order: a rater has his voice first, and what is said against each other is settled among those that
# count.
RULES: dict[str, Callable[[Sequence[Rating], Rules], set[int]]] = {
    "too_old": too_old,
    "other_ability": other_ability,
    "rated_again": rated_again,
    "above_per_rater": above_per_rater,
    "outvoted": outvoted,
    "contradiction": contradiction,
}


# ------------------------------------------------------------------ what they teach


def rows_of(ratings: Sequence[Rating], rules: Rules) -> tuple[tuple[RatedRow, ...], int]:
    """The rows, each once, and how many ratings come into none."""
    of_prompt: dict[tuple[str, bytes], list[Rating]] = defaultdict(list)
    for one in ratings:
        of_prompt[one.ability or rules.abilities[0], one.asked].append(one)
    rows: dict[tuple[str, str, str], RatedRow] = {}
    used = 0
    for (ability, _), group in of_prompt.items():
        made, places = taught(ability, group, rules.teaches)
        used += len(places)
        rows |= {(row.ability, row.kind, row.hash): row for row in made}
    return tuple(rows[key] for key in sorted(rows)), len(ratings) - used


def taught(ability: str, group: Sequence[Rating], teaches: frozenset[str]) -> tuple[list[RatedRow], set[str]]:
    """Rows of one prompt, and the places of the ratings that they come of."""
    first = group[0]
    right = [(one.answer, one.place) for one in group if one.good]
    right += [(one.correction, one.place) for one in group if one.correction is not None]
    wrong = [(one.answer, one.place) for one in group if not one.good]
    tools = {"tools": list(first.tools)} if first.tools else {}
    rows: list[RatedRow] = []
    used: set[str] = set()
    if "chats" in teaches:
        for answer, place in right:
            rows.append(row_of(ability, "chats", {"messages": [*first.prompt, answer], **tools}))
            used.add(place)
    if "labels" in teaches:
        for good, answers in ((True, right), (False, wrong)):
            for answer, place in answers:
                labelled = {"messages": [*first.prompt, answer], "label": good, **tools}
                rows.append(row_of(ability, "labels", labelled))
                used.add(place)
    if "pairs" in teaches:
        for (better, one), (worse, other) in list(product(right, wrong))[:PAIRS_PER_PROMPT]:
            pair = {"prompt": list(first.prompt), "chosen": [better], "rejected": [worse], **tools}
            rows.append(row_of(ability, "pairs", pair))
            used |= {one, other}
    return rows, used


def taught_hashes(rating: Rating) -> set[str]:
    """Of the chats that it may teach, whether they count or not."""
    answers = [rating.answer, *([rating.correction] if rating.correction is not None else [])]
    return {row_of("", "chats", {"messages": [*rating.prompt, answer]}).hash for answer in answers}


def row_of(ability: str, kind: str, fields: dict[str, Any]) -> RatedRow:
    better: list[Message] = fields.get("chosen") or []
    rejected = fields["rejected"][0] if "rejected" in fields else None
    messages = tuple(fields.get("messages") or [*fields["prompt"], *better])
    hash = text_hash(Row("", "", 0, messages=messages, rejected=rejected))
    return RatedRow(
        ability=ability, kind=kind, fields={"id": f"rated-{hash}", **fields, "made": True}, hash=hash
    )
