"""Is a log as it was written? Each thing that is not, with the number of its line.

The last line's signature proves all before it, as far as the chain holds; where it is broken the signature of
the line before the break is read, to say which line it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..installation import VerifyingKey, read_line
from .line import DOMAIN, GENESIS, hash_of
from .log import HEAD, LOG, Head, no_log, read_head, second_head

BACK_S = 1.0  # clocks of a machine that keeps its time are moved by less at once
KINDS = {
    "changed": "line {line} was changed",
    "inserted": "line {line} was inserted",
    "missing": "before line {line} the lines {first} to {last} are missing",
    "moved": "line {line} stands elsewhere than it was written: it was line {seq}",
    "cut": "after line {line} the lines {first} to {last} were cut off",
    "clock": "line {line} was written after the clock had been set back by {back_s} s",
    "head": "line {line} is the last, and no sound head beside it says whether more followed",
    "other": "another log stood here, of {last} lines",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """`line` counts from 1, in the file as it is; `kind` is one of KINDS, `facts` fill its text."""

    line: int
    kind: str
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """To be filled with `line` and `facts`."""
        return KINDS[self.kind]

    def as_json(self) -> dict[str, Any]:
        text = self.text.format(line=self.line, **self.facts)
        return {"line": self.line, "kind": self.kind, **self.facts, "text": text}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """`torn_bytes`: of a last line that a crash tore while it was written; nobody was told it was there."""

    lines: int
    findings: tuple[Finding, ...]
    torn_bytes: int = 0
    at: str = ""  # of the last sound line

    @property
    def intact(self) -> bool:
        return not self.findings


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    bytes: bytes
    hash: str
    says: dict[str, Any]  # empty for what is no line of a log

    @property
    def seq(self) -> int:
        seq = self.says.get("seq")
        return seq if isinstance(seq, int) else 0


def check_log(folder: Path, key: VerifyingKey) -> Report:
    """Raises WrongUse where there is no log, nor a head that tells of one."""
    path = folder / LOG
    heads = [read_head(folder / HEAD, key), read_head(second_head(folder), key)]
    if not path.is_file() and not any(heads):
        raise no_log(folder)
    data = path.read_bytes() if path.is_file() else b""
    *whole, torn = data.split(b"\n")
    lines = [_Line(i, line, hash_of(line), read_line(line) or {}) for i, line in enumerate(whole, 1)]
    head, strange = _heads(heads, lines)
    sound = _sound(lines, key)
    whole_chain = len(sound) == len(lines) and _chained(lines)
    findings = [] if whole_chain else list(_wrong(lines, sound))
    findings += [*_clock(sound), *_end(lines, sound, head), *strange]
    findings.sort(key=lambda finding: finding.line)
    is_cut = any(finding.kind in ("cut", "head") for finding in findings)
    return Report(
        lines=len(lines),
        findings=tuple(findings),
        torn_bytes=0 if is_cut else len(torn),
        at=sound[-1].says["at"] if sound else "",
    )


def _heads(heads: Sequence[Head | None], lines: list[_Line]) -> tuple[Head | None, list[Finding]]:
    """The head that goes further; and the second where it was kept of a log that is not here any more."""
    beside, second = heads
    first = beside.first if beside else lines[0].hash if lines else ""
    if second is None or second.first == first or not first:
        return max((h for h in heads if h), key=lambda h: h.seq, default=None), []
    return beside, [Finding(1, "other", {"last": second.seq})]


def _sound(lines: list[_Line], key: VerifyingKey) -> list[_Line]:
    """Lines that `key` signed. A sound line vouches by its hash for the one before it, unread."""
    sound: list[_Line] = []
    for line in reversed(lines):
        vouched = sound and sound[-1].number == line.number + 1 and sound[-1].says["prev"] == line.hash
        if vouched or key.opened(line.bytes, DOMAIN) is not None:
            sound.append(line)
    return sound[::-1]


def _chained(lines: list[_Line]) -> bool:
    prev = GENESIS
    for line in lines:
        if line.says.get("prev") != prev or line.seq != line.number:
            return False
        prev = line.hash
    return True


def _wrong(lines: list[_Line], sound: list[_Line]) -> Iterator[Finding]:
    """By their own signatures, then by the numbers that the sound ones were written with."""
    there = {line.seq for line in sound}
    by_number = {line.number for line in sound}
    read: set[int] = set()
    last, bad = 0, list[_Line]()
    for line in lines:
        if line.number not in by_number:
            bad.append(line)
            continue
        gone = [seq for seq in range(last + 1, line.seq) if seq not in there]
        yield from _between(bad, gone, line)
        if line.seq in read:
            yield Finding(line.number, "inserted")
        elif line.seq < last or any(seq in there for seq in range(last + 1, line.seq)):
            yield Finding(line.number, "moved", {"seq": line.seq})
        read.add(line.seq)
        last, bad = max(last, line.seq), []
    yield from (Finding(line.number, "changed") for line in bad)


def _between(bad: list[_Line], gone: list[int], after: _Line) -> Iterator[Finding]:
    """Lines without a signature stand for those that are not there; more than these were inserted."""
    yield from (Finding(line.number, "changed") for line in bad[: len(gone)])
    yield from (Finding(line.number, "inserted") for line in bad[len(gone) :])
    if left := gone[len(bad) :]:
        yield Finding(after.number, "missing", {"first": left[0], "last": left[-1]})


def _end(lines: list[_Line], sound: list[_Line], head: Head | None) -> Iterator[Finding]:
    """Does the log go as far as its head says?"""
    last = max((line.seq for line in sound), default=0)
    after = max((line.number for line in sound if line.seq == last), default=0)
    bad = sum(line.number > after for line in lines) - sum(line.number > after for line in sound)
    if head is None:
        yield Finding(len(lines), "head")
    elif head.seq > last + bad:
        yield Finding(len(lines), "cut", {"first": last + bad + 1, "last": head.seq})


def _clock(sound: list[_Line]) -> Iterator[Finding]:
    """Against the line before, and within one start of the machine against the time since then."""
    for before, line in pairwise(sound):
        passed_s = _s(line) - _s(before)
        least_s = 0.0
        if line.says["boot"] == before.says["boot"] and line.seq > before.seq:
            least_s = max(0.0, line.says["up_s"] - before.says["up_s"])
        if line.seq > before.seq and passed_s < least_s - BACK_S:
            yield Finding(line.number, "clock", {"back_s": round(least_s - passed_s, 1)})


def _s(line: _Line) -> float:
    return datetime.fromisoformat(line.says["at"]).timestamp()
