"""How long the attempts before this one took: a training that is gone on from has their work too."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

from ...artefact import Scratch

FILE = "attempts.json"  # in the scratch: {"count", "wall_s", "since"}; `since` is null once an attempt ended


class Attempts:
    """Of one scratch, while the block runs: how many there were before, and how many seconds they took.

    One that was killed counts up to the last file that it has left.
    """

    def __init__(self, scratch: Scratch) -> None:
        self.scratch, self.count, self.wall_s = scratch, 0, 0.0
        self.begun, self.since = time.monotonic(), time.time()

    def __enter__(self) -> Attempts:
        before = self._read()
        self.count, self.wall_s = int(before.get("count", 0)), float(before.get("wall_s", 0.0))
        if before.get("since") is not None:
            self.wall_s += max(0.0, self._left_at() - float(before["since"]))
        self._write(self.wall_s, self.since)
        return self

    def __exit__(self, *_: object) -> None:
        self._write(self.wall_s + time.monotonic() - self.begun, None)

    def _read(self) -> dict[str, Any]:
        path = self.scratch.read(FILE)
        with suppress(OSError, ValueError):
            return dict(json.loads(path.read_bytes())) if path else {}
        return {}

    def _write(self, wall_s: float, since: float | None) -> None:
        entry = {"count": self.count + 1, "wall_s": wall_s, "since": since}
        with suppress(OSError):  # a full disk must not hide what filled it
            self.scratch.write(FILE, json.dumps(entry).encode())

    def _left_at(self) -> float:
        """Seconds since 1970."""
        return max((path.stat().st_mtime for path in self.scratch.folder.rglob("*")), default=0.0)
