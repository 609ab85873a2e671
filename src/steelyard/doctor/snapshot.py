"""A host as its snapshot shows it: the words of files and tools, read. Pure: no host is asked here.

A snapshot is what probe.py prints; a test or a colleague can send one as a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..errors import WrongUse

SCHEMA = "steelyard.snapshot/1"
UNLIMITED = 1 << 60
NVIDIA, AMD, INTEL, HABANA = "10de", "1002", "8086", "1da3"


@dataclass(frozen=True)
class Host:
    """Reads one snapshot. A file, tool or package that was not there reads as empty, never as an error."""

    facts: Mapping[str, Any] = field(repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.facts, Mapping) or self.facts.get("schema") != SCHEMA:
            hint = "make one on the host: steelyard doctor --record FILE"
            raise WrongUse("doctor.snapshot", f"this is no {SCHEMA}", hint=hint)

    @property
    def name(self) -> str:
        return str(self.facts.get("host", "host"))

    def file(self, path: str) -> str:
        return str(self._part("files").get(path, "")).strip()

    def matching(self, pattern: str) -> dict[str, str]:
        """Files whose path matches wholly."""
        return {p: t.strip() for p, t in self._part("files").items() if re.fullmatch(pattern, p)}

    def number(self, path: str) -> int | None:
        text = self.file(path)
        return int(text) if re.fullmatch(r"-?\d+", text) else None

    def has(self, *words: str) -> bool:
        """Whether a tool ran, whatever it said."""
        return " ".join(words) in self._part("commands")

    def output(self, *words: str) -> str:
        return str(self._part("commands").get(" ".join(words), {}).get("text", ""))

    def failed(self, *words: str) -> bool:
        return self._part("commands").get(" ".join(words), {}).get("rc", 0) != 0

    def hung(self) -> dict[str, str]:
        """Tools that did not end in time, and what became of each."""
        commands = self._part("commands")
        return {name: str(one.get("text", "")) for name, one in commands.items() if one.get("rc") == -1}

    def package(self, name: str) -> str | None:
        return self._part("packages").get(name)

    def env(self, name: str) -> str:
        return str(self._part("env").get(name, ""))

    def device(self, pattern: str) -> dict[str, Mapping[str, Any]]:
        """Device files whose path matches wholly: {path: {"mode", "group", "usable"}}."""
        return {p: d for p, d in self._part("devices").items() if re.fullmatch(pattern, p)}

    def pci(self, vendor: str, kinds: str = "03|12|0880|0b40") -> list[Mapping[str, Any]]:
        """PCI devices of a maker; `kinds`: first digits of their class (03 display, 12 accelerator)."""
        return [
            d
            for d in self.facts.get("pci", ())
            if d["vendor"] == vendor and re.match(kinds, d.get("class", ""))
        ]

    def modules(self) -> frozenset[str]:
        """Kernel modules that are loaded."""
        return frozenset(line.split()[0] for line in self.file("/proc/modules").splitlines() if line.strip())

    def kernel_log(self, pattern: str) -> str:
        """The last line of dmesg that a pattern is found in, or nothing."""
        lines = [line.strip() for line in self.output("dmesg").splitlines() if re.search(pattern, line)]
        return lines[-1] if lines else ""

    def disk(self, use: str) -> Mapping[str, Any]:
        return next((d for d in self.facts.get("disks", ()) if d.get("use") == use), {})

    def limit(self, name: str) -> int:
        """A soft limit; UNLIMITED without one."""
        soft = self._part("limits").get(name, [-1])[0]
        return UNLIMITED if soft < 0 else soft

    def torch_built_for(self, what: str) -> str | None:
        """The CUDA, ROCm (hip) or xpu version that torch was built for."""
        suffix = re.search(r"\+(cu|rocm)([\d.]+)", self.package("torch") or "")
        if suffix and suffix[1] == {"cuda": "cu", "hip": "rocm"}.get(what):
            digits = suffix[2]
            return digits if "." in digits else f"{digits[:-1]}.{digits[-1]}"
        return self._part("torch").get(what)

    # -------------------------------------------------------------- what is read often

    @cached_property
    def kernel(self) -> str:
        return self.file("/proc/sys/kernel/osrelease") or str(self._part("system").get("kernel", ""))

    @cached_property
    def linux(self) -> bool:
        return self._part("system").get("os", "Linux") == "Linux"

    @cached_property
    def wsl(self) -> bool:
        return "microsoft" in self.kernel.lower()

    @cached_property
    def container(self) -> bool:
        """Whether this is inside a container, as far as cgroups, mounts and Kubernetes' variables tell."""
        root = next((d for d in self._mounts if len(d) > 2 and d[1] == "/"), ["", "", ""])
        named = re.search(r"docker|kubepods|containerd|libpod|lxc", self.file("/proc/self/cgroup"))
        return root[2] == "overlay" or bool(named) or bool(self.env("KUBERNETES_SERVICE_HOST"))

    @cached_property
    def _mounts(self) -> list[list[str]]:
        return [line.split() for line in self.file("/proc/mounts").splitlines()]

    @cached_property
    def cpu_model(self) -> str:
        return self._cpuinfo("model name") or str(self._part("system").get("machine", "CPU"))

    @cached_property
    def cpu_flags(self) -> frozenset[str]:
        return frozenset((self._cpuinfo("flags") or self._cpuinfo("Features")).split())

    @cached_property
    def cpu_id(self) -> tuple[str, int, int]:
        """(maker, family, model) as /proc/cpuinfo has them."""
        family, model = (self._cpuinfo(key) for key in ("cpu family", "model"))
        return self._cpuinfo("vendor_id"), int(family or -1), int(model or -1)

    def _cpuinfo(self, key: str) -> str:
        matched = re.search(rf"^{key}\s*:(.*)$", self.file("/proc/cpuinfo"), re.M)
        return matched[1].strip() if matched else ""

    @cached_property
    def memory_bytes(self) -> int:
        """What the host has, or the cgroup allows."""
        return min(self.meminfo("MemTotal") or UNLIMITED, self.cgroup_memory_bytes)

    def meminfo(self, key: str) -> int | None:
        matched = re.search(rf"^{re.escape(key)}:\s*(\d+)( kB)?", self.file("/proc/meminfo"), re.M)
        return int(matched[1]) * (1024 if matched[2] else 1) if matched else None

    @cached_property
    def cgroup_memory_bytes(self) -> int:
        texts = self.matching(r"/sys/fs/cgroup/.*memory\.(max|limit_in_bytes)").values()
        return min((int(t) for t in texts if t.isdigit() and int(t) < UNLIMITED), default=UNLIMITED)

    @cached_property
    def cgroup_memory_free_bytes(self) -> int:
        """What the tightest cgroup still grants, UNLIMITED without a limit. Files that were read and may be
        dropped count as used there, and are free all the same."""
        free = UNLIMITED
        for path, text in self.matching(r"/sys/fs/cgroup/.*memory\.(max|limit_in_bytes)").items():
            if text.isdigit() and int(text) < UNLIMITED:
                folder = path.rpartition("/")[0]
                used = self.number(f"{folder}/memory.current") or self.number(
                    f"{folder}/memory.usage_in_bytes"
                )
                free = min(free, int(text) - max(0, (used or 0) - self._droppable_bytes(folder)))
        return free

    def _droppable_bytes(self, folder: str) -> int:
        """Of the page cache of a cgroup and those below it: version 1 calls it total_inactive_file."""
        rows = dict(re.findall(r"^(\w+) (\d+)$", self.file(f"{folder}/memory.stat"), re.M))
        return int(rows.get("total_inactive_file") or rows.get("inactive_file") or 0)

    @cached_property
    def cpu_quota(self) -> float | None:
        """CPUs that the tightest cgroup grants, None without a quota."""
        return min(self._quotas(), default=None)

    def _quotas(self) -> Iterator[float]:
        for text in self.matching(r"/sys/fs/cgroup/.*cpu\.max").values():
            words = text.split()
            if len(words) == 2 and words[0].isdigit():
                yield int(words[0]) / int(words[1])
        for path, text in self.matching(r"/sys/fs/cgroup/.*cpu\.cfs_quota_us").items():
            period = self.number(path.replace("quota", "period"))
            if period and text.lstrip("-").isdigit() and int(text) > 0:
                yield int(text) / period

    @cached_property
    def nodes(self) -> dict[str, int]:
        """Bytes of each NUMA node."""
        sizes = {}
        for path, text in self.matching(r"/sys/devices/system/node/node\d+/meminfo").items():
            matched = re.search(r"MemTotal:\s*(\d+) kB", text)
            sizes[path.split("/")[-2]] = int(matched[1]) * 1024 if matched else 0
        return sizes

    def _part(self, name: str) -> Mapping[str, Any]:
        part = self.facts.get(name)
        return part if isinstance(part, Mapping) else {}
