from __future__ import annotations

import subprocess
import sys
import time
from itertools import pairwise

from steelyard.run.child import memory
from steelyard.run.child.memory import PeakMemory

HELD = "import sys, time; held = bytearray(int(sys.argv[1])); time.sleep(2)"


WATCHED = f"""
import subprocess, sys, time
from steelyard.run.child.memory import PeakMemory
with PeakMemory() as seen:
    subprocess.run([sys.executable, "-c", {HELD!r}, "200000000"], check=True)
    time.sleep(0.2)
print(seen.bytes, seen.wall_s)
"""


def test_the_peak_of_a_child_that_is_gone_is_kept() -> None:
    """In a process of its own: this one has children of other tests, which would be counted."""
    told = subprocess.run([sys.executable, "-c", WATCHED], check=True, capture_output=True, text=True)
    peak, wall_s = map(float, told.stdout.split())
    assert 200e6 < peak < 600e6 and wall_s > 2


def test_walks_over_pages_take_a_fiftieth_of_the_time(monkeypatch) -> None:
    """Whoever holds much is not held up for being looked at."""
    walks: list[float] = []

    def slow(pid: int) -> int:
        walks.append(time.monotonic())
        time.sleep(0.01)
        return 1

    monkeypatch.setattr(memory, "proportional_bytes", slow)
    monkeypatch.setattr(memory, "family", lambda pids: list(pids))
    monkeypatch.setattr(memory, "resident_bytes", lambda pid: 10**9)
    end = time.monotonic() + 30
    with PeakMemory():
        while len(walks) < 4 and time.monotonic() < end:
            time.sleep(0.05)
    gaps = [later - walk for walk, later in pairwise(walks)]
    assert len(gaps) >= 3 and min(gaps) >= 50 * 0.01
