"""Machines that work together: the core that decides, its simulator, one machine as a node of a cluster."""

from typing import TYPE_CHECKING

from ..doors import fetching
from .nodes import check_reachable, cluster_address, node_words, start_node

if TYPE_CHECKING:
    from .deciding import (
        POLICIES,
        Blame,
        Cancel,
        Decision,
        DeviceBack,
        DeviceLost,
        Event,
        Exited,
        Fleet,
        Load,
        Policy,
        ProbeResult,
        Signal,
        Submit,
        Tick,
        advance,
        blame,
        checkpoint_every_s,
        step,
    )
    from .mapping import on_nodes
    from .simulating import Account, Setup, Trace, changed, read_trace, run_setup

MAPPING = ("on_nodes",)
SIMULATING = ("Account", "Setup", "Trace", "changed", "read_trace", "run_setup")
DECIDING = (
    "POLICIES", "Blame", "Cancel", "Decision", "DeviceBack", "DeviceLost", "Event", "Exited", "Fleet", "Load",
    "Policy", "ProbeResult", "Signal", "Submit", "Tick", "advance", "blame", "checkpoint_every_s", "step",
)  # fmt: skip
FILES = dict.fromkeys(SIMULATING, "simulating") | dict.fromkeys(DECIDING, "deciding")
FILES |= dict.fromkeys(MAPPING, "mapping")

__all__ = [
    "POLICIES", "Account", "Blame", "Cancel", "Decision", "DeviceBack", "DeviceLost", "Event", "Exited",
    "Fleet", "Load", "Policy", "ProbeResult", "Setup", "Signal", "Submit", "Tick", "Trace", "advance",
    "blame", "changed", "check_reachable", "checkpoint_every_s", "cluster_address", "node_words",
    "on_nodes", "read_trace", "run_setup", "start_node", "step",
]  # fmt: skip

__getattr__ = fetching(__name__, FILES)
