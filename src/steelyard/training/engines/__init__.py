"""The training engines by name, in the order they are asked. To add one: a file here, its two lines below."""

from __future__ import annotations

from collections.abc import Callable

from ...errors import Lacking, Where, WrongUse
from .own import own_capability
from .protocol import TrainCapability, TrainEngine, TrainJob, TrainNeed

__all__ = [
    "CAPABILITIES",
    "ENGINES",
    "TrainCapability",
    "TrainEngine",
    "TrainJob",
    "TrainNeed",
    "choose",
    "engine_of",
]

AUTO = "auto"


def _own() -> TrainEngine:
    from .own import OwnEngine

    return OwnEngine()


ENGINES: dict[str, Callable[[], TrainEngine]] = {"own": _own}
CAPABILITIES: dict[str, Callable[[], TrainCapability]] = {"own": own_capability}


def engine_of(name: str) -> TrainEngine:
    """The engine of that name. Raises WrongUse where there is none."""
    if name not in ENGINES:
        raise WrongUse(
            "train.engine",
            f"{name!r} is no training engine",
            where=Where(field="train.engine"),
            hint=f"one of {', '.join((AUTO, *ENGINES))}",
        )
    return ENGINES[name]()


def choose(need: TrainNeed, engine: str = AUTO) -> tuple[str, str]:
    """The engine that trains this, and why: the first that can. Raises WrongUse where the one that is named
    cannot, or none can; Lacking where the one that could is not installed."""
    if engine != AUTO:
        engine_of(engine)
        if reason := CAPABILITIES[engine]().why_not(need):
            raise _cannot(engine, reason)
        return _installed(engine), "asked for"
    reasons = {name: capability().why_not(need) for name, capability in CAPABILITIES.items()}
    able = next((name for name, reason in reasons.items() if reason is None), None)
    if able is None:
        *_, (name, reason) = reasons.items()
        raise _cannot(name, str(reason))
    before = [f"{name} has no {reason}" for name, reason in reasons.items() if reason]
    return _installed(able), "; ".join(before) or "the fastest on a CPU for this family"


def _installed(engine: str) -> str:
    if unusable := CAPABILITIES[engine]().unusable:
        raise Lacking(
            "train.engine_missing",
            f"the training engine {engine} is not installed",
            where=Where(field="train.engine"),
            why=unusable,
            hint=f"steelyard engines install {engine}",
        )
    return engine


def _cannot(engine: str, reason: str) -> WrongUse:
    able = [name for name in ENGINES if name != engine]
    return WrongUse(
        "train.engine_cannot",
        f"the training engine {engine} has no {reason}",
        where=Where(field="train.engine"),
        hint=f"engine: {AUTO} takes one that has, of {', '.join((engine, *able))}",
    )
