"""The training engines by name, in the order they are asked. To add one: a file here, its two lines below."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...artefact import Watch
from ...errors import Where, WrongUse
from ...model import trl_devices
from .own import own_capability
from .protocol import TrainCapability, TrainEngine, TrainJob, TrainNeed, device_missing, not_installed
from .trl.python import trl_capability

__all__ = [
    "CAPABILITIES",
    "ENGINES",
    "TrainCapability",
    "TrainEngine",
    "TrainJob",
    "TrainNeed",
    "check_device",
    "choose",
    "engine_of",
    "install",
]

AUTO = "auto"


def _own() -> TrainEngine:
    from .own import OwnEngine

    return OwnEngine()


def _trl() -> TrainEngine:
    from .trl.engine import TrlEngine

    return TrlEngine()


def _trl_install() -> Callable[[Watch | None, bool], Path]:
    from .trl.install import install_trl

    return install_trl


ENGINES: dict[str, Callable[[], TrainEngine]] = {"own": _own, "trl": _trl}
CAPABILITIES: dict[str, Callable[[], TrainCapability]] = {"own": own_capability, "trl": trl_capability}
INSTALLERS: dict[str, Callable[[], Callable[[Watch | None, bool], Path]]] = {"trl": _trl_install}


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
    lacks: list[str] = []
    for name, capability in CAPABILITIES.items():  # no further than needed: to look for TRL takes 0.1 s
        reason = capability().why_not(need)
        if reason is None:
            return _installed(name), "; ".join(lacks) or "the fastest on a CPU for this family"
        lacks.append(f"{name} has no {reason}")
    raise _cannot(name, str(reason))


def check_device(device: str) -> None:
    """Raises Lacking where the engine trl is not installed, or finds no such device; a CPU is always here."""
    if device == "cpu":
        return
    _installed("trl")
    if not trl_devices().get(device):
        raise device_missing(device)


def _installed(engine: str) -> str:
    if unusable := CAPABILITIES[engine]().unusable:
        raise not_installed(engine, unusable)
    return engine


def install(engine: str, watch: Watch | None = None, ray: bool = False) -> Path:
    """Make the engine's own environment, with Ray for several machines where asked for; its interpreter.
    Raises WrongUse for an engine that needs none."""
    engine_of(engine)
    if engine not in INSTALLERS:
        raise WrongUse(
            "engines.no_environment",
            f"the training engine {engine} needs no environment of its own",
            hint=f"one of {', '.join(INSTALLERS)}",
        )
    return INSTALLERS[engine]()(watch, ray)


def _cannot(engine: str, reason: str) -> WrongUse:
    able = [name for name in ENGINES if name != engine]
    return WrongUse(
        "train.engine_cannot",
        f"the training engine {engine} has no {reason}",
        where=Where(field="train.engine"),
        hint=f"engine: {AUTO} takes one that has, of {', '.join((engine, *able))}",
    )
