"""What was made of what, by the inputs that each manifest names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ...artefact import Artefact


def inputs_of(artefact: Artefact) -> Iterator[tuple[str, str]]:
    """(role, hash) of what it was made of."""
    for one in artefact.manifest.get("inputs", ()):
        yield one["role"], one["hash"]


def descendants(hashes: Iterable[str], artefacts: Sequence[Artefact]) -> list[Artefact]:
    """All that was made of these, over any number of steps, in the order of the making."""
    reached = set(hashes)
    found: list[Artefact] = []
    while True:
        more = [
            a
            for a in artefacts
            if not any(a is b for b in found) and any(hash in reached for _, hash in inputs_of(a))
        ]
        if not more:
            return ordered(found)
        found += more
        reached |= {a.hash for a in more}


def ordered(found: Sequence[Artefact]) -> list[Artefact]:
    """What others are made of, first."""
    left, out = list(found), []
    while left:
        hashes = {a.hash for a in left}
        ready = [a for a in left if not any(h in hashes and h != a.hash for _, h in inputs_of(a))]
        ready = ready or left  # hashes in a circle: damaged lineage
        out += ready
        left = [a for a in left if not any(a is other for other in ready)]
    return out
