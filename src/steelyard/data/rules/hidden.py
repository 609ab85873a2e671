"""Signs that show nothing: several in a row are a mark that somebody set, one alone is a leftover."""

from __future__ import annotations

import numpy as np

from ..facts import Facts, Kind

IN_A_ROW = 3


def hidden_marks(facts: Facts) -> np.ndarray:
    """Three signs without width in a row (zero-width spaces and joiners, tags): no script needs them."""
    if not facts.counts[:, Kind.HIDDEN].any():
        return np.zeros(len(facts), dtype=bool)
    codes = facts.codes
    marks = (codes >= 0x200B) & (codes <= 0x200F) | (codes >= 0x2060) & (codes <= 0x2064) | (codes == 0xFEFF)
    marks |= (codes == 0x180E) | (codes >= 0xE0000) & (codes < 0xE0080)
    run = marks.copy()
    for step in range(1, IN_A_ROW):
        run[:-step] &= marks[step:]
        run[-step:] = False
    return facts.holds(run)
