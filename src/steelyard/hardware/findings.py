"""What doctor says about this machine; each finding has a line that mends it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from ..telemetry import BLOCKED
from ..units import show_bytes
from .machine import Machine

NEEDED_FREE_BYTES = 5e9  # the demo's artefacts, calibration and wheels


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact about the machine: `level` ok | warn | bad, and what mends it."""

    name: str
    level: str
    message: str
    fix: str | None = None


def findings(machine: Machine, folder: Path = Path(".")) -> list[Finding]:
    """ISA, memory, disk, packages and packages that report, worst first."""
    results = [_isa(machine), _memory(machine), _disk(folder), *_packages(machine), *_reporters()]
    return sorted(results, key=lambda f: ("bad", "warn", "ok").index(f.level))


def _isa(machine: Machine) -> Finding:
    low = {"amx_bf16", "avx512_bf16", "bf16"} & set(machine.isa)
    if low:
        return Finding("isa", "ok", f"{machine.cpu_model}: {machine.cores} cores, {', '.join(machine.isa)}")
    message = f"{machine.cpu_model} has no BF16 instructions: training computes in FP32, serving in INT8"
    return Finding("isa", "warn", message, "use a CPU with AMX or AVX512-BF16 for twice the speed")


def _memory(machine: Machine) -> Finding:
    gb = machine.memory_free_bytes / 1e9
    fix = None if gb > 4 else "close programs or raise the memory limit of this container"
    return Finding(
        "memory",
        "ok" if gb > 4 else "warn",
        f"{show_bytes(machine.memory_free_bytes)} free of {show_bytes(machine.memory_bytes)}",
        fix,
    )


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    fix = None if free > NEEDED_FREE_BYTES else "free some space, or use --workdir on a larger disk"
    return Finding("disk", "ok" if free > NEEDED_FREE_BYTES else "bad", f"{show_bytes(free)} free", fix)


def _packages(machine: Machine) -> list[Finding]:
    lacking = [name for name, version in machine.versions if version == "none" and name != "steelyard"]
    if not lacking:
        return [Finding("packages", "ok", ", ".join(f"{n} {v}" for n, v in machine.versions))]
    return [
        Finding(
            "packages",
            "warn",
            f"not installed: {', '.join(lacking)}",
            "in the steelyard checkout: pip install -c constraints.txt '.[cpu]'",
        )
    ]


def _reporters() -> list[Finding]:
    """Packages that steelyard keeps out of its processes; other programs of this environment load them."""
    return [
        Finding(
            "telemetry",
            "warn",
            f"{name.replace('_', '-')} is installed: steelyard never loads it, others may",
            f"pip uninstall {name.replace('_', '-')} (OpenVINO works without)",
        )
        for name in BLOCKED
        if any(distributions(name=name))
    ]
