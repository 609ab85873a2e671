"""Memory: what is free, limits of the cgroup, shared memory, NUMA nodes, huge pages, overcommit."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ...units import show_bytes
from ..finding import Finding, Mend, bad, ok, warn
from ..snapshot import AMD, UNLIMITED, Host

LOW_BYTES = 4e9  # the demo's training and its service
SHARED_BYTES = 64 * 2**20  # Docker's default of /dev/shm
THROTTLED = 0.25  # of the periods
PIDS_BESIDE = 64  # processes besides two threads a core


def free(host: Host) -> Iterator[Finding]:
    available = host.meminfo("MemAvailable")
    if available is None:
        return
    available = max(0, min(available, host.cgroup_memory_free_bytes))
    seen = f"{show_bytes(available)} free of {show_bytes(host.memory_bytes)}"
    if available > LOW_BYTES:
        yield ok("memory", seen)
    else:
        cause = "other programs hold it, or the container's limit is low"
        fix = "close programs or raise the memory limit of this container"
        yield warn("memory.low", seen, cause, fix)


def throttled(host: Host) -> Iterator[Finding]:
    for path, text in host.matching(r"/sys/fs/cgroup/.*cpu\.stat").items():
        counts = {k: int(v) for k, v in re.findall(r"^(\w+) (\d+)$", text, re.M)}
        periods, stopped = counts.get("nr_periods", 0), counts.get("nr_throttled", 0)
        if periods >= 100 and stopped > THROTTLED * periods and host.cpu_quota:
            threads = max(1, int(host.cpu_quota))
            yield warn(
                "cgroup.throttled",
                f"the CPU quota stopped this cgroup in {stopped} of {periods} periods ({path})",
                f"programs start a thread for each of {host.facts.get('affinity')} processors, the quota "
                "grants "
                f"{host.cpu_quota:g}",
                f"export OMP_NUM_THREADS={threads} OPENBLAS_NUM_THREADS={threads}; steelyard counts the "
                "quota by itself",
                source="https://github.com/ollama/ollama/issues/17916",
            )
            return


def killed(host: Host) -> Iterator[Finding]:
    for path, text in host.matching(r"/sys/fs/cgroup/.*memory\.events").items():
        count = re.search(r"^oom_kill (\d+)$", text, re.M)
        if count and int(count[1]) and host.cgroup_memory_bytes < UNLIMITED:
            yield warn(
                "cgroup.oom",
                f"the kernel has killed {count[1]} processes for memory ({path})",
                f"they needed more than this cgroup's limit, {show_bytes(host.cgroup_memory_bytes)}",
                "raise the limit (docker run --memory, resources.limits.memory), or plan for less: "
                "steelyard plan",
            )
            return


def processes(host: Host) -> Iterator[Finding]:
    wanted = 2 * int(host.facts.get("affinity", 1)) + PIDS_BESIDE
    for path, text in host.matching(r"/sys/fs/cgroup/.*pids\.max").items():
        used = host.number(path.replace("pids.max", "pids.current")) or 0
        if text.isdigit() and int(text) - used < wanted:
            yield bad(
                "cgroup.pids",
                f"{used} of at most {text} processes and threads are in use ({path})",
                "a process limit of the container or unit: starting threads fails with EAGAIN",
                f"docker run --pids-limit {max(4096, 8 * wanted)} ..., or TasksMax= of the unit",
            )
            return
    if host.facts.get("user", {}).get("uid") != 0 and host.limit("nproc") < max(1024, wanted):
        yield bad(
            "limits.nproc",
            f"this user may have {host.limit('nproc')} processes and threads",
            "ulimit -u: starting threads fails with EAGAIN",
            "ulimit -u 65536, and for good a line in /etc/security/limits.conf: USER - nproc 65536",
        )


def shared(host: Host) -> Iterator[Finding]:
    size = host.disk("shared memory").get("total_bytes")
    if size and size <= SHARED_BYTES:
        yield warn(
            "memory.shm",
            f"/dev/shm has {show_bytes(size)}: data loaders end with Bus error, NCCL with unhandled "
            "system error",
            "Docker's default for a container",
            "docker run --shm-size=8g ... (or --ipc=host); in Kubernetes an emptyDir of medium Memory at "
            "/dev/shm",
        )


def overcommit(host: Host) -> Iterator[Finding]:
    if host.number("/proc/sys/vm/overcommit_memory") == 2:
        yield warn(
            "memory.overcommit",
            "vm.overcommit_memory is 2: large mappings fail with Cannot allocate memory while memory is free",
            "the kernel promises no more than CommitLimit",
            "sudo sysctl vm.overcommit_memory=0",
            mend=Mend(write=("/proc/sys/vm/overcommit_memory", "0")),
        )


def huge_pages(host: Host) -> Iterator[Finding]:
    total, size = host.meminfo("HugePages_Total"), host.meminfo("Hugepagesize")
    unused, memory = host.meminfo("HugePages_Free"), host.meminfo("MemTotal")
    if total and size and memory and unused is not None and unused * size > 0.25 * memory:
        yield warn(
            "memory.huge_pages",
            f"{show_bytes(unused * size)} of {show_bytes(memory)} are reserved as huge pages that nobody "
            "uses",
            "vm.nr_hugepages: ordinary memory cannot use them",
            "sudo sysctl vm.nr_hugepages=0, or the number that a program asks for",
        )


def numa_empty(host: Host) -> Iterator[Finding]:
    empty = [name for name, size in host.nodes.items() if not size]
    cpus = [n for n in empty if host.file(f"/sys/devices/system/node/{n}/cpulist")]
    if len(host.nodes) > 1 and cpus:
        yield warn(
            "numa.empty",
            f"{', '.join(cpus)}: cores without memory of their own",
            "no memory module sits on that socket, or the firmware or hypervisor gives it none",
            "fill the socket's channels; until then run on the others: numactl --cpunodebind=N --membind=N",
        )


def numa_balancing(host: Host) -> Iterator[Finding]:
    accelerators = [d for d in host.pci(AMD) if d["class"].startswith(("12", "0380"))]
    if accelerators and len(host.nodes) > 1 and host.number("/proc/sys/kernel/numa_balancing") == 1:
        yield warn(
            "numa.balancing",
            "kernel.numa_balancing is 1 on a host of AMD Instinct",
            "the kernel unmaps pages to see who uses them, and GPU transfers wait for it",
            "sudo sysctl kernel.numa_balancing=0",
            source="https://rocm.docs.amd.com/en/docs-6.3.3/how-to/rocm-for-ai/training/prerequisite-system-validation.html",
            mend=Mend(write=("/proc/sys/kernel/numa_balancing", "0")),
        )


RULES = (
    free, throttled, killed, processes, shared, overcommit, huge_pages, numa_empty, numa_balancing,
)  # fmt: skip
