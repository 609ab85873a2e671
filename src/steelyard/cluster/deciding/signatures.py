"""Whose fault a failure is: by the last words of a process, its exit code, the ranks that show the same.

Not here: what becomes of the device or the job (healing.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

OOM_KILL = 137


@dataclass(frozen=True, slots=True)
class Blame:
    """`whose`: job, data, device, link, switch, storage, node, unknown. `act`: what a driver does besides."""

    whose: str
    act: str = ""


# Words of a process's end -> blame; the first that matches counts.
SIGNATURES: tuple[tuple[str, Blame], ...] = (
    (r"(CUDA|HIP|HPU|XPU|Level ?Zero).{0,60}out of memory|OutOfMemoryError", Blame("job", "micro_batch")),
    (r"Xid.{0,20}\b(48|63|64|74|79|94|95)\b|uncorrectable ECC|Xe.{0,40}(hang|reset)|HL.{0,20}reset",
     Blame("device", "isolate")),
    (r"memory\.(exhausted|row_too_large)|MemoryError|allocate memory|bad.?alloc|memory allocation",
     Blame("job", "host_memory")),
    (r"digest mismatch|checksum mismatch", Blame("storage", "previous_checkpoint")),
    (r"ENOSPC|disk\.full|no space (is )?left on", Blame("storage", "prune")),
    (r"\bEIO\b|Input/output error|Stale file handle", Blame("storage", "isolate")),
    (r"(NCCL|HCCL|oneCCL|gloo).{0,80}(timeout|timed out|Connection (closed|reset))",
     Blame("link", "probe_pairs")),
    (r"clock (step|jump)", Blame("node", "monotonic")),
    (r"heartbeat lost", Blame("node", "restart_daemon")),
    (r"Traceback \(most recent call last\)", Blame("job", "traceback")),
)  # fmt: skip
# What a job cannot help: it is never stopped for it, however often it comes.
ELSEWHERE = ("storage", "link", "switch", "node", "device")
NAN = re.compile(r"\b(loss|grad\w*)\b.{0,40}\b(nan|inf)\b", re.IGNORECASE)


def blame(code: int, signature: str, ranks: int = 1, of: int = 1) -> Blame:
    """Blame for a process that ended with `code`; `ranks` of the job's `of` show the same, 0: not known."""
    if NAN.search(signature):
        return Blame("device", "isolate") if 0 < ranks < of else Blame("data", "previous_checkpoint")
    if code == OOM_KILL and "oom" in signature.lower():
        return Blame("job", "host_memory")
    for pattern, whose in SIGNATURES:
        if re.search(pattern, signature, re.IGNORECASE):
            if whose.whose == "link" and ranks == of > 2:
                return Blame("switch", "wait")
            return whose
    return Blame("unknown")
