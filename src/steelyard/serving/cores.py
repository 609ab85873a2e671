"""How many cores an engine may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Physical cores this process may run on: a second hyper-thread adds nothing to matrix work."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))
