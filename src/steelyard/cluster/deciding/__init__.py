"""The decision core: `step(state, event) -> (state, decisions)`. Pure: others do what it says."""

from .cadence import checkpoint_every_s
from .fleet import Fleet
from .messages import (
    Cancel,
    ClockJumped,
    Decision,
    DeviceBack,
    DeviceLost,
    Due,
    Event,
    Exited,
    Load,
    Outlook,
    ProbeResult,
    Signal,
    Stalled,
    Submit,
    Terms,
    Tick,
)
from .policy import POLICIES, Policy
from .signatures import Blame, blame
from .step import advance, step

__all__ = [
    "POLICIES", "Blame", "Cancel", "ClockJumped", "Decision", "DeviceBack", "DeviceLost", "Due", "Event",
    "Exited", "Fleet", "Load", "Outlook", "Policy", "ProbeResult", "Signal", "Stalled", "Submit", "Terms",
    "Tick", "advance", "blame", "checkpoint_every_s", "step",
]  # fmt: skip
