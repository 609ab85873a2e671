"""Which rows ask nearly the same: what must stand on one side when rows are divided.

Of a chat the user's turns, of a text all of it. Rows of one question are one group, and so are those whose
questions are near-duplicates (near.py); groups hang together. Order and batches change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..facts import SHINGLE, hashes_of, joined
from ..row import Row
from .near import PERMUTATIONS, alike, roots, signatures
from .store import Growing, GrowingRagged, Ragged

ROWS_AT_ONCE = 1024


def asked_shingles(rows: Sequence[Row]) -> Ragged:
    """Runs of five tokens of what each row asks, each once; none where it is shorter."""
    runs = [np.unique(joined(hashes, SHINGLE)) for hashes in hashes_of(map(asked, rows))]
    values = np.concatenate(runs) if runs else np.zeros(0, dtype=np.uint64)
    return Ragged(values, np.array([len(run) for run in runs], dtype=np.int64))


def asked(row: Row) -> str:
    if row.messages is None:
        return row.text or ""
    return "\n".join(m["content"] for m in row.messages if m["role"] == "user")


def groups_of(keys: Sequence[bytes], shingles: GrowingRagged, threshold: float | None) -> list[int]:
    """Of each row a row of its group, the same for all of them: the first by `keys`, made of the content.

    `keys` begin with 16 bytes that are equal for equal questions. `threshold` None: only these are a group.
    """
    order = sorted(range(len(keys)), key=keys.__getitem__)
    pairs = [equal_neighbours([keys[row][:16] for row in order])]
    if threshold is not None:
        pairs += near_pairs(np.array(order, dtype=np.int64), shingles, threshold)
    out = list(range(len(keys)))
    for row, first in zip(order, roots(len(order), pairs).tolist(), strict=True):
        out[row] = order[first]
    return out


def equal_neighbours(prompts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Places of neighbours that are equal."""
    same = [n for n in range(1, len(prompts)) if prompts[n - 1] == prompts[n]]
    later = np.array(same, dtype=np.int64)
    return later - 1, later


def near_pairs(
    order: np.ndarray, shingles: GrowingRagged, threshold: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of places in `order` whose shingles are alike. Rows in the order of their content meet the same
    neighbours in a full bucket, however the file was sorted."""
    folder = shingles.values.folder
    signature, own = Growing(np.uint32, PERMUTATIONS, folder), GrowingRagged.of(np.uint64, folder)
    full = []
    for start in range(0, len(order), ROWS_AT_ONCE):
        rows = shingles.rows(order[start : start + ROWS_AT_ONCE])
        kept = np.flatnonzero(rows.lengths)
        rows = Ragged(rows.values, rows.lengths[kept])
        signature.append(signatures(rows))
        own.append(rows)
        full.append(start + kept)
    places = np.concatenate(full) if full else np.zeros(0, dtype=np.int64)
    return ((places[a], places[b]) for a, b, _ in alike(signature, own, threshold).parts())
