"""What the routers of a mixture of experts pick over the rows, and which experts stay.

One number of experts stands in config.json, so each layer keeps as many, its own best.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...artefact import Watch
from ...model import TransformersNetwork
from ..faults import stop_if_asked


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """By layer and expert, over all tokens of the rows: L layers, E experts."""

    layers: tuple[int, ...]  # that have a router
    picks: np.ndarray  # [L, E]: how often it was picked
    weight: np.ndarray  # [L, E]: the sum of the weights that it had then
    beside: np.ndarray  # [L, E, E]: those times the probability of each other expert
    rows: int
    tokens: int

    @property
    def reached(self) -> int:
        """Experts that the rows pick, of the layer where they are most."""
        return int((self.picks > 0).sum(1).max())


def counted(folder: Path, rows: Iterable[Sequence[int]], dtype: str, threads: int, watch: Watch) -> Counts:
    """Counts of a model folder over the rows, each by itself. Raises Lacking, Stopped."""
    network = TransformersNetwork(folder, "bfloat16" if dtype == "bf16" else "float32", threads)
    asked = tokens = 0
    try:
        with watch.progress("routes", total=None, unit="tokens") as bar:
            for row in rows:
                stop_if_asked(watch)
                network.route(row)
                asked, tokens = asked + 1, tokens + len(row)
                bar.advance(len(row))
        layers, array = network.routed() if asked else ([], np.zeros((0, 2, 0)))
    finally:
        network.close()
    return Counts(tuple(layers), array[:, 0], array[:, 1], array[:, 2:], asked, tokens)


def chosen(counts: Counts, count: int) -> np.ndarray:
    """[L, count]: numbers of the experts that stay, ascending: those that weigh most over the rows.

    Of experts that weigh the same the first ones stay.
    """
    order = np.argsort(-counts.weight, axis=1, kind="stable")
    return np.sort(order[:, :count], axis=1)


def weight_lost(counts: Counts, kept: np.ndarray) -> np.ndarray:
    """[L]: of the weights that the routers gave, the share that those experts had which go."""
    gone = counts.weight.copy()
    np.put_along_axis(gone, kept, 0.0, 1)
    return gone.sum(1) / np.maximum(counts.weight.sum(1), 1e-300)  # 0 where nothing is lost, to the bit


def scales(counts: Counts, kept: np.ndarray) -> np.ndarray:
    """[L, count]: what the output of each expert that stays is multiplied by, where a router's weights are
    shares among all experts: without those that go its weights grow by this, in the mean over its tokens."""
    rows = []
    for at, own in enumerate(kept):
        gone = np.delete(counts.beside[at][own], own, axis=1).sum(1)
        weight = counts.weight[at, own]
        rows.append(1 - gone / np.where(weight > 0, weight, np.inf))
    return np.array(rows)
