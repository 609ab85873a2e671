"""A service of its own for one bench: started by words of a command line, ended with the block."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def started(command: Sequence[str], state: Path, log: Path) -> Iterator[str]:
    """The URL that `serve ... --json` says first; `state`: its STEELYARD_STATE, which nobody else has."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=file, text=True,
            env=os.environ | {"STEELYARD_STATE": str(state)},
        )  # fmt: skip
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.terminate()
        process.wait()
