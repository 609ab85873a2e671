"""Failures of devices: from a file, or drawn from a published rate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from .traces import Fault

DAY_S = 86_400.0
NODE = 8
# Kokolis et al. 2024, "Revisiting reliability in large-scale machine learning research clusters"
# (arXiv 2410.21680): 6.50 failures in 1,000 node-days on the larger of two clusters, nodes of 8 GPUs.
NODE_DAYS = 1_000 / 6.50
REPAIR_S = 4 * 3_600.0  # an assumption: to drain, reset, test and put a node back


def drawn_faults(devices: int, seed: int) -> Iterator[Fault]:
    """Whole nodes fail, at random, without end."""
    random = Random(seed)
    nodes = (devices + NODE - 1) // NODE
    t_s = 0.0
    while True:
        t_s += random.expovariate(nodes / (NODE_DAYS * DAY_S))
        node = random.randrange(nodes)
        for device in range(node * NODE, min(devices, (node + 1) * NODE)):
            yield Fault(t_s, device, REPAIR_S)


def listed_faults(faults: Sequence[Fault]) -> Iterator[Fault]:
    yield from faults
