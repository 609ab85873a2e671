"""The processes of one training: who of them this is, and what they add up and agree on.

On a CPU the gradients of a step are added micro-batch by micro-batch, in the order of the plan, as one
process accumulates them: the bits do not depend on how many there are. Accelerators average as accelerate
does (DDP, FSDP2).
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

BACKENDS = {"cpu": "gloo", "cuda": "nccl", "xpu": "xccl", "hpu": "hccl"}


class Group:
    """Process `rank` of `size`."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self.first = rank == 0

    def gathered(self, value: Any) -> list[Any]:
        """The value of each process, by rank."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Until all are here."""
        self.gathered(None)

    def agreed(self, losses: list[float], stop: bool, late: bool) -> tuple[list[float], bool, bool]:
        """Of a step: the losses of all its micro-batches in order, whether any process is to stop, and
        whether the first one says that a checkpoint is due: clocks differ."""
        told = self.gathered((losses, stop, late))
        in_order = [loss for row in zip(*(t[0] for t in told), strict=True) for loss in row]
        return in_order, any(t[1] for t in told), told[0][2]


def join(job: dict[str, Any]) -> Group:
    """The group of $RANK, $WORLD_SIZE and the rendezvous of the job, a file or an address."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Group()
    import torch
    import torch.distributed as dist

    local = int(os.environ.get("LOCAL_RANK", "0"))
    if job["device"] in ("cuda", "xpu"):
        getattr(torch, job["device"]).set_device(local)
    if not dist.is_initialized():
        dist.init_process_group(
            BACKENDS[job["device"]],
            init_method=job["rendezvous"],
            rank=int(os.environ["RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
        )
    return Group(dist.get_rank(), dist.get_world_size())


def leave() -> None:
    """End the group, if there is one: a process that ends beside its threads is aborted at times."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def seed_of(seed: int, step: int, batch: int) -> int:
    """What dropout of micro-batch `batch` of a step is drawn by, whichever process computes it."""
    return ((seed * 1_000_003 + step) * 65_537 + batch) % 2**63


class OrderedSum:
    """A step's gradients, added in the order of its micro-batches: each process adds up one part of them.

    `add` after each backward, `spread` after the last. One process's micro-batch n is number n * size + rank
    of the step; there the sum of one process is ((g0 + g1) + g2) + ...: here too.
    """

    def __init__(self, parameters: Iterable[Any], size: int) -> None:
        by_dtype: dict[Any, list[Any]] = defaultdict(list)
        for parameter in parameters:
            if parameter.requires_grad:
                by_dtype[parameter.dtype].append(parameter)
        self.parts = [OrderedPart(members, size) for members in by_dtype.values()]

    def add(self) -> None:
        for part in self.parts:
            part.add()

    def spread(self) -> None:
        for part in self.parts:
            part.spread()


class OrderedPart:
    """Parameters of one dtype as one vector, a piece of it for each process."""

    def __init__(self, parameters: list[Any], size: int) -> None:
        import torch

        self.parameters, self.size, self.empty = parameters, size, True
        piece = -(-sum(p.numel() for p in parameters) // size)
        self.flat = torch.zeros(piece * size, dtype=parameters[0].dtype)
        self.received = torch.zeros_like(self.flat)
        self.total = torch.zeros(piece, dtype=self.flat.dtype)

    def views(self) -> list[tuple[Any, Any]]:
        """(parameter, its place in the vector)."""
        lengths = [p.numel() for p in self.parameters]
        pieces = self.flat[: sum(lengths)].split(lengths)
        return [(p, v.view_as(p)) for p, v in zip(self.parameters, pieces, strict=True)]

    def add(self) -> None:
        """This process's gradients go into the sum, in turn with the others'; they are free afterwards."""
        import torch
        import torch.distributed as dist

        for parameter, view in self.views():
            view.zero_() if parameter.grad is None else view.copy_(parameter.grad)
            parameter.grad = None
        dist.all_to_all_single(self.received.view(torch.uint8), self.flat.view(torch.uint8))
        for piece in self.received.chunk(self.size):
            self.total.copy_(piece) if self.empty else self.total.add_(piece)
            self.empty = False

    def spread(self) -> None:
        """The whole sum becomes every process's gradient."""
        import torch
        import torch.distributed as dist

        dist.all_gather_into_tensor(self.flat.view(torch.uint8), self.total.view(torch.uint8))
        self.empty = True
        for parameter, view in self.views():
            parameter.grad = view
