"""What judging one file may cost, and the two ways in which judging ends early."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import thread_time

FILE_S = 20.0  # of the CPU: a verdict must not depend on how busy the machine or its disk is
UNPACKED_BYTES_MAX = 256 << 20
STORAGE_BYTES_READ = 256 << 20  # of a torch archive's tensors, for their CRC: no loader runs what lies there
RATIO_MAX = 200  # unpacked to packed bytes, once above RATIO_FROM_BYTES
RATIO_FROM_BYTES = 32 << 20
NESTING_MAX = 4
ENTRIES_MAX = 100_000  # of one archive


class Bad(Exception):
    """Content that lies, or that would run code; the text is the reason: unsafe."""


class TooMuch(Exception):
    """Over a limit, encrypted, or without a rule: unknown."""


@dataclass(slots=True)
class Limits:
    """Shared by a file and all that is nested in it."""

    file_bytes: int
    ends_at: float = field(default_factory=lambda: thread_time() + FILE_S)
    unpacked_bytes: int = 0
    storage_bytes: int = 0  # tensors read so far

    def check_time(self) -> None:
        if thread_time() > self.ends_at:
            raise TooMuch("too_slow")

    def reads_storage(self, size: int) -> bool:
        """Whether tensors of so many bytes more are read, too; the same of one file on any machine."""
        self.storage_bytes += size
        return self.storage_bytes <= STORAGE_BYTES_READ

    def count_unpacked(self, count: int) -> None:
        """Called before the next piece is kept, so that a bomb never grows beyond one piece too much."""
        self.unpacked_bytes += count
        total = self.unpacked_bytes
        if total > RATIO_FROM_BYTES and total > RATIO_MAX * self.file_bytes:
            raise Bad("archive_ratio")
        if total > UNPACKED_BYTES_MAX:
            raise TooMuch("too_large")
