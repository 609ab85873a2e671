"""The account of a cleaning: rows in = kept + dropped, each dropped row with its reasons, no text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .sources import Told


@dataclass(slots=True)
class Account:
    """Counts while rows pass. `dropped` rows are told to a callback as they go."""

    files: list[Told] = field(default_factory=list)
    rows_in: int = 0
    kept: int = 0
    dropped: int = 0
    changed: int = 0
    unreadable: int = 0
    by_reason: Counter[str] = field(default_factory=Counter)  # a row with two reasons counts in both
    masked: Counter[str] = field(default_factory=Counter)  # values masked, by kind
    masked_rows: int = 0

    def drop(self, reasons: Sequence[str]) -> None:
        self.rows_in += 1
        self.dropped += 1
        self.by_reason.update(reasons)

    def keep(self, masked: dict[str, int], changed: bool) -> None:
        self.rows_in += 1
        self.kept += 1
        self.changed += changed
        self.masked.update(masked)
        self.masked_rows += bool(masked)

    @property
    def bytes_in(self) -> int:
        return sum(f.bytes for f in self.files)

    def as_json(self) -> dict[str, Any]:
        """Free of times and folders; `in` = `kept` + `dropped`, in all and for each file."""
        return {
            "schema": 1,
            "in": self.rows_in,
            "kept": self.kept,
            "dropped": self.dropped,
            "changed": self.changed,
            "bytes_in": self.bytes_in,
            "by_reason": dict(sorted(self.by_reason.items())),
            "masked": dict(sorted(self.masked.items())),
            "masked_rows": self.masked_rows,
            "sources": [f.as_json() for f in self.files],
        }
