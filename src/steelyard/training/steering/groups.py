"""Which rows are held out of a stage: by chance, and none whose near duplicate is taught."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence


def whole_groups(numbers: Sequence[int], groups: Mapping[int, str], count: int, salt: str) -> set[int]:
    """At most `count` of those rows, in whole groups, by the draw of each group's first row.

    `groups` has the rows that ask nearly what another one asks; each other row is a group of its own. Where
    all groups are larger than `count`, the smallest; where there is but one, it is cut.
    """
    members: dict[int | str, list[int]] = {}
    for number in numbers:
        members.setdefault(groups.get(number, number), []).append(number)
    by_draw = sorted(members.values(), key=lambda group: _draw(salt, group[0]))
    drawn: set[int] = set()
    for group in by_draw:
        if len(drawn) + len(group) <= count:
            drawn.update(group)
    if not drawn and len(by_draw) > 1:
        smallest: list[int] = min(by_draw, key=len)
        return set(smallest)
    return drawn or set(sorted(numbers, key=lambda number: _draw(salt, number))[:count])


def _draw(salt: str, number: int) -> bytes:
    return hashlib.blake2b(f"{salt}{number}".encode(), digest_size=8).digest()
