"""Which rows make which step: order, packing and the number of steps. Pure and independent of timings.

Order: each epoch is its own shuffle, sorted by a hash of (seed, epoch, row). With a mix, or with weights of
sources, rows of one ability and weight are a group, and the group that lags furthest behind its share gives
the next row. Packing: rows follow each other into a sequence until the next one does not fit into
`pack_length` (`max_length` where it is not set); a longer row is a sequence alone; nothing is padded.
One step is micro_batch * grad_accum sequences.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any


@dataclass(frozen=True, slots=True)
class Schedule:
    """`steps[s][m]` are the rows of step s, micro-batch m, in order; `tokens` counts what is trained on."""

    steps: tuple[tuple[tuple[int, ...], ...], ...]
    tokens: int
    rows: int
    too_long: int  # rows beyond max_length, left out


def schedule(
    lengths: Sequence[int],
    settings: Mapping[str, Any],
    abilities: Sequence[str] = (),
    weights: Sequence[float] = (),
) -> Schedule:
    """The whole training run as rows. `lengths` are tokens a row, `abilities` name each row's for the mix.

    `weights` say how often a row is drawn among those of its ability; none = all alike.
    Reads num_train_epochs, max_steps, max_length, pack_length, packing, micro_batch, grad_accum, seed, mix.
    """
    limit = settings["max_length"]
    usable = [row for row, length in enumerate(lengths) if length <= limit]
    if not usable:
        return Schedule((), 0, 0, len(lengths))
    max_steps = settings.get("max_steps") or 0
    order = _order(usable, settings["seed"], Mix(settings.get("mix") or {}), abilities, weights)
    if not max_steps:
        order = islice(order, max(1, round(len(usable) * settings["num_train_epochs"])))
    steps = _steps(order, lengths, settings)
    taken = tuple(islice(steps, max_steps) if max_steps else steps)
    return _schedule(taken, lengths, len(lengths) - len(usable))


def steered(
    plan: Schedule,
    lengths: Sequence[int],
    settings: Mapping[str, Any],
    abilities: Sequence[str],
    weights: Sequence[float],
    mixes: Mapping[int, Mapping[str, float]],
) -> Schedule:
    """As many steps as `plan`, drawn by the mix that stands: `mixes` says from which step (from 0) on which.

    Drawing goes on where it is: a row that was drawn before the change keeps its place.
    """
    usable = [row for row, length in enumerate(lengths) if length <= settings["max_length"]]
    mix = Mix(mixes[0])
    steps = _steps(_order(usable, settings["seed"], mix, abilities, weights), lengths, settings)
    taken = []
    for number in range(len(plan.steps)):
        mix.shares = mixes.get(number, mix.shares)
        taken.append(next(steps))
    return _schedule(tuple(taken), lengths, plan.too_long)


def _schedule(
    steps: tuple[tuple[tuple[int, ...], ...], ...], lengths: Sequence[int], too_long: int
) -> Schedule:
    rows = [row for step in steps for batch in step for row in batch]
    return Schedule(steps, sum(lengths[row] for row in rows), len(rows), too_long)


def _steps(
    order: Iterator[int], lengths: Sequence[int], settings: Mapping[str, Any]
) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Rows in order as steps of micro-batches, packed as the settings say."""
    limit = (settings.get("pack_length") or settings["max_length"]) if settings.get("packing", True) else 0
    batches = _grouped(_packed(order, lengths, limit), settings["micro_batch"])
    return _grouped(
        (tuple(row for part in batch for row in part) for batch in batches), settings["grad_accum"]
    )


@dataclass(slots=True)
class Mix:
    """The weight of each ability; none = by their rows. It may be another from one draw to the next."""

    shares: Mapping[str, float] = field(default_factory=dict)


def writes(settings: Mapping[str, Any]) -> bool:
    """Whether the model itself writes the answers that it learns from, so that rows are prompts."""
    lmbda = (settings.get("method") or {}).get("lmbda")
    return settings.get("stage") == "grpo" or (settings.get("stage") == "distil" and bool(lmbda))


def prompts_of(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same settings, counted in rows: of grpo micro_batch and grad_accum count the answers to them."""
    if settings["stage"] != "grpo":
        return settings
    answers = settings["micro_batch"] * settings["grad_accum"]
    return {**settings, "micro_batch": 1, "grad_accum": answers // settings["method"]["num_generations"]}


def _order(
    rows: Sequence[int],
    seed: int,
    mix: Mix,
    abilities: Sequence[str],
    weights: Sequence[float] = (),
) -> Iterator[int]:
    """Rows without end, epoch after epoch. Under another mix the count of who lags behind begins anew."""
    if not abilities or (not mix.shares and len(set(weights)) <= 1):
        yield from _shuffles(rows, seed)
        return
    groups: dict[tuple[str, float], list[int]] = {}
    for row in rows:
        groups.setdefault((abilities[row], weights[row] if weights else 1.0), []).append(row)
    sizes = {group: len(members) for group, members in sorted(groups.items())}
    streams = {group: _shuffles(groups[group], seed) for group in sizes}
    stands, shares, given = None, {}, dict[tuple[str, float], int]()
    while True:
        if mix.shares is not stands:
            stands, shares = mix.shares, _shares(sizes, mix.shares)
            given = dict.fromkeys(shares, 0)
        if not given:
            return
        yield next(streams[_lagging(given, shares)])


def _lagging(given: dict[tuple[str, float], int], shares: Mapping[tuple[str, float], float]) -> Any:
    """The group furthest behind its share, the first of equals by name; counts it as drawn."""
    drawn = sum(given.values()) + 1
    group = max(given, key=lambda g: drawn * shares[g] - given[g])
    given[group] += 1
    return group


def _shares(
    sizes: Mapping[tuple[str, float], int], mix: Mapping[str, float]
) -> dict[tuple[str, float], float]:
    """Share of the draws of each (ability, weight). A weight speaks inside its ability alone.

    Abilities stand by `mix`, without one by their rows.
    """
    rows: dict[str, int] = {}
    weighed: dict[str, float] = {}
    for (ability, weight), size in sizes.items():
        rows[ability] = rows.get(ability, 0) + size
        weighed[ability] = weighed.get(ability, 0.0) + weight * size
    parts = {
        (ability, weight): (mix.get(ability, 0.0) if mix else rows[ability])
        * weight
        * size
        / weighed[ability]
        for (ability, weight), size in sizes.items()
    }
    total = sum(parts.values())  # 0 where no row is of an ability that has a weight
    return {group: part / total for group, part in parts.items() if part > 0}


def _shuffles(rows: Sequence[int], seed: int) -> Iterator[int]:
    epoch = 0
    while True:
        yield from sorted(rows, key=lambda row: _draw(seed, epoch, row))
        epoch += 1


def _draw(seed: int, epoch: int, row: int) -> bytes:
    return hashlib.blake2b(f"{seed}:{epoch}:{row}".encode(), digest_size=8).digest()


def _packed(rows: Iterator[int], lengths: Sequence[int], limit: int) -> Iterator[tuple[int, ...]]:
    """Sequences of rows; limit 0 puts each row into its own."""
    sequence: list[int] = []
    filled = 0
    for row in rows:
        if sequence and filled + lengths[row] > limit:
            yield tuple(sequence)
            sequence, filled = [], 0
        sequence.append(row)
        filled += lengths[row]
    if sequence:
        yield tuple(sequence)


def _grouped(items: Iterator[Any], size: int) -> Iterator[tuple[Any, ...]]:
    iterator = iter(items)
    while group := tuple(islice(iterator, size)):
        yield group


# Share of the peak rate by the share of the steps after the warm-up; the names are transformers'.
SCHEDULERS: dict[str, Callable[[float], float]] = {
    "cosine": lambda share: 0.5 * (1 + math.cos(math.pi * share)),
    "linear": lambda share: 1 - share,
    "constant": lambda share: 1.0,
    "constant_with_warmup": lambda share: 1.0,
}


def learning_rate(step: float, steps: int, settings: Mapping[str, Any]) -> float:
    """Rate of step (from 0, or between two): a linear warm-up, then as lr_scheduler_type says; `constant` has
    no warm-up."""
    name, rate = settings.get("lr_scheduler_type", "cosine"), settings["learning_rate"]
    warmup = 0 if name == "constant" else warmup_steps(steps, settings)
    if step < warmup:
        return rate * (step + 1) / (warmup + 1)
    if name == "inverse_sqrt":  # Vaswani et al. 2017, section 5.3; without a warm-up from the first step on
        return rate * math.sqrt((warmup + 1) / (step + 1))
    share = (step - warmup) / max(1, steps - warmup)
    return rate * SCHEDULERS[name](share)


def warmup_steps(steps: int, settings: Mapping[str, Any]) -> int:
    """As they are counted, else as a share of all."""
    counted = settings.get("warmup_steps")
    return min(counted, steps) if counted else math.ceil(settings.get("warmup_ratio", 0.0) * steps)
