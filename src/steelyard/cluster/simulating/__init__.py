"""The core in simulated time, over traces of jobs, of a load and of faults."""

from .account import Account
from .setup import Setup, Trace, changed, read_trace, run_setup

__all__ = ["Account", "Setup", "Trace", "changed", "read_trace", "run_setup"]
