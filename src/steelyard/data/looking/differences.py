"""What another rule would have dropped: two sets of the same rows, held against each other by id."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .sets import DataSet, Drop
from .shown import batches, described


@dataclass(slots=True)
class Side:
    """Rows that this set dropped and the other kept."""

    by_reason: Counter[str] = field(default_factory=Counter)
    ids: dict[str, list[str]] = field(default_factory=dict)  # of each reason

    def add(self, id: str, drop: Drop) -> None:
        self.by_reason[drop.reasons[0]] += 1
        self.ids.setdefault(drop.reasons[0], []).append(id)


def differences(a: DataSet, b: DataSet, samples: int = 3) -> dict[str, Any]:
    """{"rows", "both_kept", "both_dropped", "by_a", "by_b": {"rows", "by_reason", "samples"}, "other_reason",
    "only_in_a", "only_in_b"}.

    `by_a`: rows that A dropped and B kept; `only_in_...`: rows that the other set has never met, which are
    left out of the rest.
    """
    mine, its = rows_of(a), rows_of(b)
    common = mine & its
    by_a, by_b, other = Side(), Side(), Counter[tuple[str, str]]()
    both = 0
    for id in dict.fromkeys([*a.drops, *b.drops]):
        if id not in common:
            continue
        one, two = a.drops.get(id, ()), b.drops.get(id, ())
        shared = min(len(one), len(two), common[id])
        both += shared
        pairs = zip(one[:shared], two[:shared], strict=True)
        other.update((x.reasons[0], y.reasons[0]) for x, y in pairs if x.reasons[0] != y.reasons[0])
        for side, more in ((by_a, one[shared:]), (by_b, two[shared:])):
            for drop in more[: common[id] - shared]:
                side.add(id, drop)
    rows = common.total()
    one_sided = by_a.by_reason.total() + by_b.by_reason.total()
    return {
        "rows": rows, "both_kept": rows - both - one_sided, "both_dropped": both,
        "by_a": side_as_json(by_a, a, b, samples), "by_b": side_as_json(by_b, b, a, samples),
        "other_reason": [{"a": x, "b": y, "rows": n} for (x, y), n in sorted(other.items())],
        "only_in_a": (mine - common).total(), "only_in_b": (its - common).total(),
    }  # fmt: skip


def rows_of(dataset: DataSet) -> Counter[str]:
    """How many rows have each id."""
    ids = Counter(entry.id for entry in dataset.kept())
    ids.update({id: len(drops) for id, drops in dataset.drops.items()})
    return ids


def side_as_json(side: Side, dropped_by: DataSet, kept_by: DataSet, samples: int) -> dict[str, Any]:
    chosen = {reason: first(ids, samples) for reason, ids in side.ids.items()}
    texts = texts_by_id(kept_by, {id for ids in chosen.values() for id in ids})
    shown = {
        reason: [{**texts[id], **verdict(dropped_by, id)} for id in ids if id in texts]
        for reason, ids in sorted(chosen.items())
    }
    counts = dict(sorted(side.by_reason.items()))
    return {"rows": side.by_reason.total(), "by_reason": counts, "samples": shown}


def verdict(dataset: DataSet, id: str) -> dict[str, Any]:
    drop = dataset.drops[id][-1]
    return {"kept": False, "reasons": list(drop.reasons), "evidence": dict(drop.evidence)}


def first(ids: Iterable[str], count: int) -> list[str]:
    """A few of them, by the hash of their name: the same ones each time, and from anywhere in the file."""
    return sorted(set(ids), key=chance)[:count]


def chance(id: str) -> bytes:
    return hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def texts_by_id(dataset: DataSet, ids: Collection[str]) -> Mapping[str, dict[str, Any]]:
    """These rows of those that the set kept, described."""
    if not ids:
        return {}
    entries = (entry for entry in dataset.kept() if entry.id in ids)
    return {body["id"]: body for batch in batches(entries) for body in described(batch)}
