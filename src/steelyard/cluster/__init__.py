"""Machines that work together: the core that decides, its simulator, a driver of one, many over ssh."""

from typing import TYPE_CHECKING

from ..doors import fetching
from .nodes import check_reachable, cluster_address, node_words, start_node

if TYPE_CHECKING:
    from .deciding import (
        POLICIES,
        Blame,
        Cancel,
        ClockJumped,
        Decision,
        DeviceBack,
        DeviceLost,
        Due,
        Event,
        Exited,
        Fleet,
        Load,
        Outlook,
        Policy,
        ProbeResult,
        Signal,
        Stalled,
        Submit,
        Terms,
        Tick,
        advance,
        blame,
        checkpoint_every_s,
        step,
    )
    from .driving import (
        Following,
        JobsFile,
        JobSpec,
        Services,
        ask,
        read_jobs_file,
        replayed,
        run_jobs,
        status_of,
    )
    from .mapping import on_nodes
    from .opening import Host, Hosts, Row, close, open_hosts, read_hosts, states
    from .simulating import Account, Setup, Trace, changed, read_trace, run_setup

MAPPING = ("on_nodes",)
SIMULATING = ("Account", "Setup", "Trace", "changed", "read_trace", "run_setup")
DECIDING = (
    "POLICIES", "Blame", "Cancel", "ClockJumped", "Decision", "DeviceBack", "DeviceLost", "Due", "Event",
    "Exited", "Fleet", "Load", "Outlook", "Policy", "ProbeResult", "Signal", "Stalled", "Submit", "Terms",
    "Tick", "advance", "blame", "checkpoint_every_s", "step",
)  # fmt: skip
OPENING = ("Host", "Hosts", "Row", "close", "open_hosts", "read_hosts", "states")
DRIVING = (
    "Following", "JobsFile", "JobSpec", "Services", "ask", "read_jobs_file", "replayed", "run_jobs",
    "status_of",
)  # fmt: skip
FILES = dict.fromkeys(SIMULATING, "simulating") | dict.fromkeys(DECIDING, "deciding")
FILES |= dict.fromkeys(MAPPING, "mapping") | dict.fromkeys(DRIVING, "driving")
FILES |= dict.fromkeys(OPENING, "opening")

__all__ = [
    "POLICIES", "Account", "Blame", "Cancel", "ClockJumped", "Decision", "DeviceBack", "DeviceLost", "Due",
    "Event", "Exited", "Fleet", "Following", "Host", "Hosts", "JobSpec", "JobsFile", "Load", "Outlook",
    "Policy", "ProbeResult", "Row", "Services", "Setup", "Signal", "Stalled", "Submit", "Terms", "Tick",
    "Trace", "advance", "ask", "blame", "changed", "check_reachable", "checkpoint_every_s", "close",
    "cluster_address", "node_words", "on_nodes", "open_hosts", "read_hosts", "read_jobs_file", "read_trace",
    "replayed", "run_jobs", "run_setup", "start_node", "states", "status_of", "step",
]  # fmt: skip

__getattr__ = fetching(__name__, FILES)
