"""On one node: an actor that keeps a process in steelyard's Python.

Sent there by value: what it uses stands in this package, and no function imports but other packages.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from .frames import read_frame, write_frame

WORKER = "STEELYARD_NODE_WORKER"  # how `steelyard cluster start` says that such a process is started there
NOT_HANDED_ON = ("RAY_", "PYTHON", "OMP_NUM_THREADS")  # what Ray sets for its own workers


class Place:
    """One core: it does one piece of work after another."""

    def __init__(self, call: str, function: bytes) -> None:
        self.call, self.function = call, function
        self.child: Any = None

    def begin(self) -> dict[str, Any]:
        """What code is here; the process is ready. Raises RuntimeError where there is none."""
        if WORKER not in os.environ:
            raise RuntimeError("its node was started by a release of steelyard that cannot do this")
        own = {name: value for name, value in os.environ.items() if not name.startswith(NOT_HANDED_ON)}
        self.child = subprocess.Popen(
            json.loads(os.environ[WORKER]), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=own
        )
        kind, code = self.asked(b"c", 0, self.call.encode())
        fits, words = self.asked(b"f", 0, self.function) if kind == b"c" else (kind, code)
        if fits == b"d":
            raise RuntimeError(f"its process ended with exit code {words.decode()}")
        return {"code": json.loads(code) if kind == b"c" else {}, "fits": fits == b"a"}

    def work(self, number: int, body: bytes) -> tuple[bytes, bytes]:
        """(a, the answer), (e, what was raised) or (d, how the process ended); then another is started."""
        if self.child is None:
            self.begin()
        return self.asked(b"i", number, body)

    def asked(self, kind: bytes, number: int, body: bytes) -> tuple[bytes, bytes]:
        try:
            write_frame(self.child.stdin, kind, number, body)
            frame = read_frame(self.child.stdout)
        except BrokenPipeError:
            frame = None
        if frame is not None:
            return frame[0], frame[2]
        code = self.child.wait()
        self.child = None
        return b"d", str(code).encode()
