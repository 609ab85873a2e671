"""How many cores an engine may use, and which, where several share them."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from ....errors import WrongUse
from ....hardware import affinity


def usable_cores() -> int:
    """Physical cores this process may run on: a second hyper-thread adds nothing to matrix work."""
    import psutil

    allowed = len(affinity())
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


def split_cores(parts: int) -> list[tuple[int, ...]]:
    """The physical cores in `parts` near-equal runs, cores of one NUMA node and socket together.

    Raises WrongUse where there are fewer cores than parts.
    """
    cores = physical_cores()
    if parts > len(cores):
        raise WrongUse(
            "serve.replicas", f"{parts} replicas need {parts} cores, {len(cores)} may be used",
            hint=f"--replicas {len(cores)}",
        )  # fmt: skip
    bounds = [len(cores) * i // parts for i in range(parts + 1)]
    return [tuple(cores[a:b]) for a, b in pairwise(bounds)]


def physical_cores() -> list[int]:
    """One hyper-thread of each usable core, neighbours of one NUMA node and socket together."""
    return [first for _, first in sorted(_physical().items())]


def _physical() -> dict[tuple[int, int, int], int]:
    """(NUMA node, socket, core) -> its first usable hyper-thread; without /sys each CPU is a core."""
    first_cpu: dict[tuple[int, int, int], int] = {}
    for cpu in sorted(affinity()):
        place = Path(f"/sys/devices/system/cpu/cpu{cpu}")
        socket, core, node = 0, cpu, 0
        with suppress(OSError, ValueError):
            socket = int((place / "topology/physical_package_id").read_text())
            core = int((place / "topology/core_id").read_text())
            node = next((int(n.name[4:]) for n in place.glob("node[0-9]*")), 0)
        first_cpu.setdefault((node, socket, core), cpu)
    return first_cpu
