"""Teach a model: LoRA and full fine-tuning on packed rows, resumable to the bit.

`train` is the step, `schedule` says beforehand how many steps a data set makes, `probe` measures a machine.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ..doors import fetching
from .packing import Schedule, schedule

if TYPE_CHECKING:
    from .engines import CAPABILITIES, TrainNeed, check_device, choose, install
    from .engines.trackers import check_trackers
    from .engines.trl.hosts import hosts_there
    from .methods import METHODS
    from .rehearsal import probe
    from .smaller.healing import heal, qat
    from .step import pick, train

FILES = {  # what needs torch is fetched when used
    "CAPABILITIES": "engines",
    "METHODS": "methods",
    "TrainNeed": "engines",
    "check_device": "engines",
    "check_trackers": "engines.trackers",
    "choose": "engines",
    "heal": "smaller.healing",
    "pick": "step",
    "hosts_there": "engines.trl.hosts",
    "install": "engines",
    "probe": "rehearsal",
    "qat": "smaller.healing",
    "train": "step",
}

__all__ = [
    "CAPABILITIES",
    "METHODS",
    "Schedule",
    "TrainNeed",
    "check_device",
    "check_trackers",
    "choose",
    "heal",
    "hosts_there",
    "install",
    "pick",
    "probe",
    "qat",
    "schedule",
    "train",
]

_fetch = fetching(__name__, FILES)


def __getattr__(name: str) -> Any:
    # Threads that spin briefly at a barrier, then sleep: OpenMP's long spins make a step ten times as long on
    # cores shared with other work, sleeping at once costs a fifth on idle ones (docs/decisions/020). Read
    # once, when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    return _fetch(name)
