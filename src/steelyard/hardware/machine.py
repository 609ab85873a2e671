"""This machine: usable cores, instruction set, memory, and its place in the catalogue.

Counts what this process may use: CPU affinity and cgroup limits, not what the host has.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from .catalogue import Device, catalogue

# Flags that change which kernels run, hence bits and speed.
ISA = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "amx_fp16")
ISA_ARM = ("asimd", "bf16", "i8mm", "sve", "sve2")
PACKAGES = ("numpy", "torch", "openvino", "openvino-genai", "tokenizers", "steelyard")
UNLIMITED = 1 << 60
ACCELERATOR_FILES = ("/dev/nvidia0", "/dev/kfd", "/dev/accel/accel0", "/dev/dri/renderD128")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What this process may use. `share` is the usable part of the nearest catalogued device, by cores."""

    cpu_model: str
    cores: int  # physical, after affinity and cgroup quota
    threads: int  # logical, after affinity
    isa: tuple[str, ...]
    memory_bytes: int
    memory_free_bytes: int
    last_cache_bytes: int
    versions: tuple[tuple[str, str], ...]
    fingerprint: str
    nearest_device: str
    share: float

    @property
    def price_usd_per_h(self) -> float:
        """This machine as its share of the nearest catalogued device's list price."""
        return (catalogue().find(self.nearest_device).price_usd_per_h or 0.0) * self.share


def accelerator_files() -> tuple[str, ...]:
    """Device files of accelerators (NVIDIA, AMD, Gaudi, Intel GPU) that are here; whether they can be used, a
    torch of theirs says."""
    return tuple(file for file in ACCELERATOR_FILES if os.path.exists(file))


def probe() -> Machine:
    """Look at this machine. Never raises for a file that is not there: falls back to psutil."""
    model, cores, isa = cpu_model(), usable_cores(), isa_flags()
    total = min(psutil.virtual_memory().total, cgroup_limit("memory"))
    device = nearest(model, isa)
    return Machine(
        cpu_model=model,
        cores=cores,
        threads=len(affinity()),
        isa=isa,
        memory_bytes=total,
        memory_free_bytes=free_bytes(total),
        last_cache_bytes=last_cache_bytes(),
        versions=versions(),
        fingerprint=fingerprint(model, cores, isa, total),
        nearest_device=device.id,
        share=min(1.0, cores / (device.cores or cores)),
    )


def fingerprint(model: str, cores: int, isa: tuple[str, ...], memory_bytes: int) -> str:
    """SHA-256 over what makes a calibration valid: CPU, cores, ISA, memory in whole GiB, library versions."""
    facts = [
        model,
        cores,
        isa,
        memory_bytes // 2**30,
        platform.system(),
        platform.python_version(),
        versions(),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


@cache
def versions() -> tuple[tuple[str, str], ...]:
    """Installed packages that calibrations depend on."""
    return tuple((name, _version(name)) for name in PACKAGES)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


@cache
def cpu_model() -> str:
    """The maker's name of the CPU; on hosts that hide it, vendor with family and model number."""
    text = _read("/proc/cpuinfo")
    names = {
        k: m[1].strip()
        for k in ("model name", "cpu family", "model")
        if (m := re.search(rf"^{k}\s*:(.*)$", text, re.M))
    }
    if "model name" not in names:
        return platform.processor() or platform.machine()
    hidden = not re.search(r"\d{3}", names["model name"])
    tail = f" (family {names.get('cpu family')}, model {names.get('model')})" if hidden else ""
    return names["model name"] + tail


@cache
def isa_flags() -> tuple[str, ...]:
    """The flags of ISA or ISA_ARM that this CPU has, sorted as listed."""
    matched = re.search(r"^(?:flags|Features)\s*:(.*)$", _read("/proc/cpuinfo"), re.M)
    flags = set(matched[1].split()) if matched else set()
    return tuple(flag for flag in (*ISA, *ISA_ARM) if flag in flags)


def affinity() -> frozenset[int]:
    """Logical CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def usable_cores() -> int:
    """Physical cores within the affinity mask, at most what the cgroup's CPU quota allows, at least 1."""
    cores = set()
    for cpu in affinity():
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
        core = _read(topology / "core_id")
        cores.add((_read(topology / "physical_package_id"), core) if core else cpu)
    physical = len(cores)
    if not Path("/sys/devices/system/cpu").exists():
        physical = psutil.cpu_count(logical=False) or physical
    return max(1, min(physical, cgroup_limit("cpu")))


def cgroup_limit(what: str) -> int:
    """The tightest limit of this process's cgroup and its parents: bytes of memory or whole CPUs."""
    read = {"memory": _memory_limits, "cpu": _cpu_limits}[what]
    return min((limit for folder in _cgroup_folders(what) for limit in read(folder)), default=UNLIMITED)


def _cgroup_folders(controller: str) -> Iterator[Path]:
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, place = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = Path("/sys/fs/cgroup") / (controller if controllers else "")
        folder = root / place.strip("/")
        yield from (f for f in (folder, *folder.parents) if f == root or root in f.parents)


def _numbers(path: Path) -> list[str]:
    return _read(path).split()


def _memory_limits(folder: Path) -> Iterator[int]:
    for name in ("memory.max", "memory.limit_in_bytes"):
        if (words := _numbers(folder / name)) and words[0].isdigit() and int(words[0]) < UNLIMITED:
            yield int(words[0])


def _cpu_limits(folder: Path) -> Iterator[int]:
    words = _numbers(folder / "cpu.max") or [
        *_numbers(folder / "cpu.cfs_quota_us"),
        *_numbers(folder / "cpu.cfs_period_us"),
    ]
    if len(words) == 2 and words[0].isdigit() and int(words[1]) > 0:
        yield max(1, int(words[0]) // int(words[1]))


def free_bytes(total: int = UNLIMITED) -> int:
    """Bytes that a new process could take: the host's available memory, within the cgroup's headroom."""
    headroom = [
        limit - _used_bytes(folder)
        for folder in _cgroup_folders("memory")
        for limit in _memory_limits(folder)
    ]
    return max(0, min(psutil.virtual_memory().available, *headroom, total))


def _used_bytes(folder: Path) -> int:
    """Of a cgroup, without files that were read and that the kernel drops when memory is wanted."""
    used = _numbers(folder / "memory.current") or _numbers(folder / "memory.usage_in_bytes") or ["0"]
    words = _numbers(folder / "memory.stat")
    rows = dict(zip(words[::2], words[1::2], strict=False))
    return int(used[0]) - int(rows.get("total_inactive_file", rows.get("inactive_file", 0)))


def last_cache_bytes() -> int:
    """Size of the last-level cache, 32 MiB where the system does not tell."""
    sizes = [_read(f"/sys/devices/system/cpu/cpu0/cache/index{i}/size") for i in range(4)]
    level_bytes = [int(s[:-1]) * {"K": 2**10, "M": 2**20}[s[-1]] for s in sizes if s and s[-1] in "KM"]
    return max(level_bytes, default=32 * 2**20)


def nearest(model: str, isa: tuple[str, ...]) -> Device:
    """The catalogued, priced CPU that this machine resembles: by name, else by maker and instruction set."""
    cpus = [d for d in catalogue() if d.kind == "cpu" and d.price_usd_per_h]
    named = [
        d for d in cpus if (number := re.search(r"\d{4}\w?", d.name)) and number[0].lower() in model.lower()
    ]
    return (named or [d for d in cpus if d.id == _relative(model, isa)])[0]


def _relative(model: str, isa: tuple[str, ...]) -> str:
    if "amd" in model.lower():
        return "epyc-9654"
    if {"asimd", "sve", "bf16"} & set(isa):
        return "graviton4"
    return "xeon-8480plus" if "amx_bf16" in isa else "xeon-8375c"
