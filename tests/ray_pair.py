"""Two nodes of a real Ray cluster on the loopback, started as `steelyard cluster start` makes them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from steelyard.trust import cluster_keys as keys

FIRST, SECOND = "127.0.0.2", "127.0.0.3"  # 127.0.0.1 Ray takes for the machine's outer address


@contextmanager
def two_nodes(
    folder: Path, port: int, patch: pytest.MonkeyPatch
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The head's address, and the second node's process; keys are made, those of the first are in use."""
    made, started = keys.make_keys(folder / "keys", [FIRST, SECOND]), []
    head = f"{FIRST}:{port}"
    try:
        for number, own in enumerate(made):
            patch.setenv(keys.VARIABLE, str(own))
            words = [SECOND, "--head", head] if number else [head]
            started.append(_node(folder / f"{number}.log", words))
        patch.setenv(keys.VARIABLE, str(made[0]))
        yield head, started[1]
    finally:
        for child in started:
            child.terminate()
            child.wait(60)


def _node(log: Path, more: list[str]) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "steelyard", "cluster", "start", *more, "--num-cpus", "1"]
    with log.open("wb") as file:
        child = subprocess.Popen(words, stdout=file, stderr=file, start_new_session=True)
    deadline = time.monotonic() + 300
    while "Ray runtime started" not in log.read_text("utf-8", "replace"):
        assert child.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    return child
