from __future__ import annotations

import subprocess
import sys
import time

from steelyard.run import memory
from steelyard.run.memory import PeakMemory

HELD = "import sys, time; held = bytearray(int(sys.argv[1])); time.sleep(0.4)"


def test_the_peak_of_a_child_that_is_gone_is_kept() -> None:
    with PeakMemory() as seen:
        subprocess.run([sys.executable, "-c", HELD, "200000000"], check=True)
        time.sleep(0.2)
    assert 200e6 < seen.bytes < 600e6 and seen.wall_s > 0.4


def test_walks_over_pages_take_a_fiftieth_of_the_time(monkeypatch) -> None:
    """Whoever holds much is not held up for being looked at."""
    walks = []

    def slow(pid: int) -> int:
        walks.append(pid)
        time.sleep(0.01)
        return 1

    monkeypatch.setattr(memory, "proportional_bytes", slow)
    monkeypatch.setattr(memory, "family", lambda pids: list(pids))
    monkeypatch.setattr(memory, "resident_bytes", lambda pid: 10**9)
    with PeakMemory():
        time.sleep(1.3)
    assert 2 <= len(walks) <= 4  # at the start, and each half second
