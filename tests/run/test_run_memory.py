from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from steelyard.processes import children, is_in_memory_of
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


# Opening a pipe that nobody writes to holds the child up before exec, in its parent's memory.
STARTING = """
import os, sys
opened = (os.POSIX_SPAWN_OPEN, 0, sys.argv[1], os.O_RDONLY, 0)
os.posix_spawn("/bin/sleep", ["sleep", "60"], os.environ, file_actions=[opened])
os.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="kcmp(2) is Linux's")
def test_a_child_that_is_being_started_is_in_its_parents_memory(tmp_path) -> None:
    """It would count as much as its parent: a step of 87 MB was measured as 135."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen([sys.executable, "-c", STARTING, str(pipe)]) as parent:
        try:
            child = soon(lambda: next(iter(children(parent.pid)), None))
            assert soon(lambda: is_in_memory_of(child, parent.pid))
            with pipe.open("wb"):
                assert soon(lambda: not is_in_memory_of(child, parent.pid)), "it has begun another program"
            os.kill(child, signal.SIGKILL)
        finally:
            parent.kill()


def soon(found: Callable[[], Any]) -> Any:
    """What it gives once that is true, within half a minute."""
    end = time.monotonic() + 30
    while not (result := found()) and time.monotonic() < end:
        time.sleep(0.01)
    return result


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
