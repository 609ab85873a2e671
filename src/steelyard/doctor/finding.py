"""One thing that doctor says about a host."""

from __future__ import annotations

from dataclasses import dataclass

LEVELS = ("bad", "warn", "ok")
CERTAINTIES = ("sure", "likely", "possible")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mend:
    """What --fix may do by itself: a kernel setting (path, text) or a command, undone by a reboot or by pip.

    `needs_root`: whether only root can.
    """

    write: tuple[str, str] | None = None
    run: tuple[str, ...] | None = None
    needs_root: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is seen, why, and the command that mends it.

    `level`: bad (work fails), warn (slower, or fails under load), ok (nothing to do). `certainty`: sure (the
    host says it), likely (what else would explain it is rare), possible. `source`: a page that explains it.
    """

    name: str  # room.fault, stable: scripts rely on it
    level: str
    symptom: str
    cause: str = ""
    fix: str | None = None
    certainty: str = "sure"
    source: str | None = None
    mend: Mend | None = None


def bad(name: str, symptom: str, cause: str, fix: str, **more: object) -> Finding:
    """Work on this host fails."""
    return Finding(name=name, level="bad", symptom=symptom, cause=cause, fix=fix, **more)  # type: ignore[arg-type]


def warn(name: str, symptom: str, cause: str, fix: str, **more: object) -> Finding:
    """Work is slower, or fails under load."""
    return Finding(name=name, level="warn", symptom=symptom, cause=cause, fix=fix, **more)  # type: ignore[arg-type]


def ok(name: str, symptom: str) -> Finding:
    """A fact that needs nothing done."""
    return Finding(name=name, level="ok", symptom=symptom)
