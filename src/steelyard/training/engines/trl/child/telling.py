"""Lines to the parent, and a failure that it turns into an error of its own."""

from __future__ import annotations

import json
import os
import sys
from typing import Any


class Told:
    """Lines to the parent."""

    def __init__(self, fd: int) -> None:
        self.file = os.fdopen(fd, "w", buffering=1, encoding="utf-8")

    def __call__(self, **message: Any) -> None:
        self.file.write(json.dumps(message) + "\n")

    def asked(self, **message: Any) -> Any:
        """What the parent answers to a message: a line of JSON on standard input."""
        self(**message)
        line = sys.stdin.readline()
        if not line:
            raise EOFError("the parent has not answered")
        return json.loads(line)


class Failed(Exception):
    """What the parent turns into an error of its own: (kind, fields)."""

    def __init__(self, kind: str, **fields: Any) -> None:
        super().__init__(kind)
        self.fields = {"failed": kind, **fields}
