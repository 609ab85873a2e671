"""Which rows are kept from training, to judge by. The choice follows from content alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ..sample_size import rows_to_hold_out


def held_out(
    kept: Sequence[tuple[str, bytes]],
    own_evals: Collection[str],
    share: float | None,
    needs: Mapping[str, int] | None = None,
    small: bool = False,
) -> set[bytes]:
    """Prompts whose rows are the test rows of abilities without an evaluation file.

    `kept` is (ability, prompt key) of every kept row. Prompts are taken by the order of their hash, so
    rows that ask the same never stand on both sides. `needs`: rows that the gate of an ability needs.
    `small`: a group of more rows than are wanted stays in training; groups of near-duplicates may be large.
    """
    rows_of: dict[str, dict[bytes, int]] = {}
    for ability, prompt in kept:
        groups = rows_of.setdefault(ability, {})
        groups[prompt] = groups.get(prompt, 0) + 1
    # A prompt that an ability with a file of its own trains on is no test of another.
    taken = {p for ability, groups in rows_of.items() if ability in own_evals for p in groups}
    chosen: set[bytes] = set()
    for ability, groups in rows_of.items():
        if ability not in own_evals:
            free = {p: n for p, n in groups.items() if p not in taken}
            wanted = rows_to_hold(sum(groups.values()), share, (needs or {}).get(ability))
            fit = {p: n for p, n in free.items() if n <= wanted} if small else free
            chosen |= first_groups(fit, wanted, keep_one=len(fit) == len(groups))
    return chosen


def candidates(kept: Sequence[tuple[str, bytes, bool]]) -> list[tuple[str, bytes]]:
    """Of (ability, prompt, made): rows that people wrote; made ones only where there are no others."""
    written = {ability for ability, _, made in kept if not made}
    return [(ability, prompt) for ability, prompt, made in kept if not (made and ability in written)]


def made_beside(kept: Sequence[tuple[str, bytes, bool]], chosen: Collection[bytes]) -> set[int]:
    """Numbers of made rows that ask what rows of people are held out for: they neither judge nor teach it."""
    written = {ability for ability, _, made in kept if not made}
    return {
        number
        for number, (ability, prompt, made) in enumerate(kept)
        if made and prompt in chosen and ability in written
    }


def rows_to_hold(rows: int, share: float | None, needed: int | None = None) -> int:
    """How many rows of an ability to hold out; at least one where a share is wanted and two are there.

    Without a share: as many as the gate needs, see sample_size.rows_to_hold_out.
    """
    wanted = rows_to_hold_out(rows, needed=needed) if share is None else round(rows * share)
    least = 1 if rows > 1 and share != 0 else 0
    return min(max(wanted, least), rows - 1) if rows else 0


def first_groups(groups: Mapping[bytes, int], wanted: int, keep_one: bool) -> set[bytes]:
    """Whole groups by hash order until `wanted` rows; with `keep_one` one always stays for training."""
    chosen: set[bytes] = set()
    count = 0
    for prompt in sorted(groups)[: len(groups) - keep_one]:
        if count >= wanted:
            break
        chosen.add(prompt)
        count += groups[prompt]
    return chosen
