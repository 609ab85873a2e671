"""The child with FSDP2 on a CPU, for tests alone: accelerate has it for every device but the CPU."""

from __future__ import annotations

import runpy
from pathlib import Path

from accelerate.state import PartialState
from accelerate.utils import DistributedType

CHILD = Path(__file__).parents[2] / "src/steelyard/training/engines/trl/child"
made = PartialState.__init__


def as_if_it_were_xpu(self, cpu=False, **more):
    """The device stays the CPU and the backend gloo; only the list of kinds that may shard is passed."""
    made(self, cpu, **more)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_XPU


PartialState.__init__ = as_if_it_were_xpu
runpy.run_path(str(CHILD), run_name="__main__")
