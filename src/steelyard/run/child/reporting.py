"""A run that a driver of jobs has started tells it how far it is: lines in the file that it names.

The driver judges silence and pace (cluster/driving/heard.py says which lines there are), so the run does not.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from typing import Any

from ...processes import REPORT

AT_LENGTH = ("train.saving", "train.evaluating", "train.regrouping", "train.hosts")  # silent until their end


def is_driven() -> bool:
    return REPORT in os.environ


def report(**line: Any) -> None:
    """One line; nothing where no driver asked for it. What cannot be written is no reason to fail."""
    path = os.environ.get(REPORT)
    if path:
        with suppress(OSError), open(path, "ab", buffering=0) as file:
            file.write(json.dumps(line | {"mono": time.monotonic()}).encode() + b"\n")


def report_event(event: str, fields: dict[str, Any]) -> None:
    """What an event of a step means to the driver."""
    if event == "train.checkpoint":
        report(saved=fields["step"])
    elif event == "train.scratch_set_aside" and fields.get("why") == "digest mismatch":
        report(damaged=fields["file"])
    elif event in AT_LENGTH:
        report(long=True)


def report_progress(name: str, done: float, total: float | None, closed: bool) -> None:
    """Only a training has a pace; the rest lives as long as its process does."""
    if name == "train" and not closed:
        report(step=int(done), of=total)
    else:
        report(long=True)
