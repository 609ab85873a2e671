"""Which rows ask nearly the same: what must stand on one side when rows are divided.

Of a chat the user's turns, of a text all of it. Rows of one question are one group, and so are those whose
questions are near-duplicates (near.py); groups hang together. Order and batches change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..facts import SHINGLE, hashes_of, joined
from ..row import Row
from .near import alike, clusters, signatures
from .store import Ragged


def asked_shingles(rows: Sequence[Row]) -> Ragged:
    """Runs of five tokens of what each row asks, each once; none where it is shorter."""
    runs = [np.unique(joined(hashes, SHINGLE)) for hashes in hashes_of(map(asked, rows))]
    values = np.concatenate(runs) if runs else np.zeros(0, dtype=np.uint64)
    return Ragged(values, np.array([len(run) for run in runs], dtype=np.int64))


def asked(row: Row) -> str:
    if row.messages is None:
        return row.text or ""
    return "\n".join(m["content"] for m in row.messages if m["role"] == "user")


def groups_of(
    keys: Sequence[bytes], shingles: np.ndarray, starts: np.ndarray, threshold: float | None
) -> list[int]:
    """Of each row a row of its group, the same for all of them: the first by `keys`, made of the content.

    `keys` begin with 16 bytes that are equal for equal questions. `threshold` None: only these are a group.
    """
    order = sorted(range(len(keys)), key=keys.__getitem__)
    pairs = [(a, b, 1.0) for a, b in equal_neighbours([keys[row][:16] for row in order])]
    if threshold is not None:
        pairs += near_pairs(np.array(order, dtype=np.int64), shingles, starts, threshold)
    root = {place: first for first, places in clusters(pairs).items() for place in places}
    out = list(range(len(keys)))
    for place, row in enumerate(order):
        out[row] = order[root.get(place, place)]
    return out


def equal_neighbours(prompts: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Places of neighbours that are equal."""
    return ((n - 1, n) for n in range(1, len(prompts)) if prompts[n - 1] == prompts[n])


def near_pairs(
    order: np.ndarray, shingles: np.ndarray, starts: np.ndarray, threshold: float
) -> list[tuple[int, int, float]]:
    """Pairs of places in `order` whose shingles are alike. Rows in the order of their content meet the same
    neighbours in a full bucket, however the file was sorted."""
    full = np.flatnonzero(np.diff(starts)[order] > 0)
    rows = order[full]
    spans = np.stack([starts[rows], starts[rows + 1]], axis=1)
    signature = np.concatenate(
        [signatures(piece) for piece in pieces(shingles, spans)] or [signatures(EMPTY)]
    )
    return [
        (int(full[a]), int(full[b]), index) for a, b, index in alike(signature, shingles, spans, threshold)
    ]


EMPTY = Ragged(np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64))
AT_ONCE = 4096  # rows


def pieces(shingles: np.ndarray, spans: np.ndarray) -> Iterator[Ragged]:
    for begin in range(0, len(spans), AT_ONCE):
        some = spans[begin : begin + AT_ONCE]
        values = [np.asarray(shingles[a:b]) for a, b in some.tolist()]
        yield Ragged(np.concatenate(values), np.diff(some, axis=1).reshape(-1))
