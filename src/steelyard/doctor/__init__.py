"""Whether hosts are fit: probe (facts) -> rules (findings) -> mend; over ssh, and between hosts.

Not here: what there is to compute on (hardware), what a job needs (planner).
"""

from .clashes import between
from .finding import Finding, Mend
from .hosts import Asked, ask, ask_here, ssh_command
from .hosts import problem as ssh_problem
from .judge import examine, findings, read_snapshot, worst
from .mending import Mended, mend
from .probe import snapshot

__all__ = [
    "Asked",
    "Finding",
    "Mend",
    "Mended",
    "ask",
    "ask_here",
    "between",
    "examine",
    "findings",
    "mend",
    "read_snapshot",
    "snapshot",
    "ssh_command",
    "ssh_problem",
    "worst",
]
