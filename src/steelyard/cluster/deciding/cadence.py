"""Seconds between two checkpoints. Young 1974: what a save costs against what a failure would lose."""

from __future__ import annotations

from math import sqrt

SAVE_S = 5.0  # that a save stops a job for, until it is measured
SHORTEST_S, LONGEST_S = 60.0, 1_800.0
SHARE = 0.02  # of the running time that saves may take
PRIOR_DAYS = 50.0  # node-days without a failure that are believed before any is counted
NODE = 8  # devices of a node


def failure_rate(failures: int, device_s: float) -> float:
    """Failures per device second: the mean of a gamma prior of one failure in 50 node-days."""
    return (1 + failures) / (PRIOR_DAYS * 86_400.0 * NODE + device_s)


def checkpoint_every_s(devices: int, rate: float, save_s: float = SAVE_S) -> float:
    """sqrt(2 C M), M the mean time to a failure of any of the job's devices; within 60 s to 30 min."""
    between_s = 1.0 / (max(1, devices) * rate)
    wanted = max(sqrt(2.0 * save_s * between_s), save_s / SHARE)
    return min(LONGEST_S, max(SHORTEST_S, wanted))
