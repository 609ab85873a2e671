"""Limits of the process, disks, the clock, Python."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ...units import show_bytes
from ..finding import Finding, bad, ok, warn
from ..snapshot import UNLIMITED, Host
from ..versions import older

PYTHON = "3.11"  # requires-python of steelyard
NEEDED_FREE_BYTES = 5e9  # the demo's artefacts, calibration and wheels
FILES_MIN = 4096  # a service with its connections, a Ray node
LOCKED_MIN_BYTES = 2**30  # buffers that RDMA registers
CLOCK_OFF_S = 1.0


def files(host: Host) -> Iterator[Finding]:
    hard = host.facts.get("limits", {}).get("nofile", [-1, -1])[1]
    if 0 <= hard < FILES_MIN:
        yield warn(
            "limits.nofile",
            f"a process may open {hard} files at most",
            "the hard limit of nofile: a program cannot raise it by itself",
            "a line in /etc/security/limits.conf: USER - nofile 65536 (docker run --ulimit nofile=65536)",
        )


def locked(host: Host) -> Iterator[Finding]:
    free_of_it = host.facts.get("user", {}).get("uid") == 0 and not host.container  # CAP_IPC_LOCK
    if (
        host.device(r"/dev/infiniband/uverbs\d+")
        and host.limit("memlock") < LOCKED_MIN_BYTES
        and not free_of_it
    ):
        yield warn(
            "limits.memlock",
            f"there is RDMA here, and a process may lock {show_bytes(host.limit('memlock'))}",
            "the limit of memlock: registering buffers fails with Cannot allocate memory",
            "two lines in /etc/security/limits.conf: * soft memlock unlimited, * hard memlock unlimited; "
            "in a container "
            "--ulimit memlock=-1",
            source="https://github.com/NVIDIA/nccl-tests/issues/206",
        )


def address_space(host: Host) -> Iterator[Finding]:
    limit = host.limit("as")
    if limit < UNLIMITED and limit < host.memory_bytes:
        yield warn(
            "limits.address_space",
            f"a process may map {show_bytes(limit)}: libraries end with failed to map segment from shared "
            "object",
            "ulimit -v",
            "ulimit -v unlimited, or take the line for `as` from /etc/security/limits.conf",
        )


def space(host: Host) -> Iterator[Finding]:
    disk = host.disk("work")
    free = disk.get("free_bytes")
    if free is None:
        return
    if "ro" in str(disk.get("options", "")).split(","):
        cause = "mounted so, or the kernel did it after an error of the disk: dmesg | grep -i error"
        fix = f"sudo mount -o remount,rw {disk['mount']}"
        yield bad("disk.read_only", f"{disk['path']} is read-only", cause, fix, certainty="likely")
    elif free <= NEEDED_FREE_BYTES:
        cause = "the disk is nearly full"
        fix = "free some space (steelyard gc), or use --workdir on a larger disk"
        yield bad("disk.full", f"{show_bytes(free)} free on {disk['path']}", cause, fix)
    elif disk.get("total_inodes") and disk["free_inodes"] < 0.01 * disk["total_inodes"]:
        seen = f"{disk['free_inodes']} of {disk['total_inodes']} inodes are free on {disk['path']}"
        cause = "very many small files: writing fails with No space left on device while bytes are free"
        fix = f"sudo du --inodes -xd2 {disk['mount']} | sort -n | tail   # then remove what is not needed"
        yield bad("disk.inodes", seen, cause, fix)
    else:
        yield ok("disk", f"{show_bytes(free)} free on {disk['path']} ({disk.get('type')})")


def hangs(host: Host) -> Iterator[Finding]:
    """Tools and disks that did not answer the probe."""
    hung = host.hung()
    for tool in dict.fromkeys(name.split()[0] for name in hung):
        calls = [row for row in hung.items() if row[0].split()[0] == tool]
        name, what = max(calls, key=lambda row: len(row[1]))  # of its calls one that could not be killed
        held = "could not be killed" in what
        where = "in the kernel, for a driver or a device" if held else "for a driver or a service"
        cause = f"it waits {where} that does not answer"
        fix = f"dmesg | tail -50; {'a reboot ends it' if held else name}"
        yield (bad if held else warn)("tool.hangs", f"{tool} {what}", cause, fix, certainty="likely")
    for disk in host.facts.get("disks", ()):
        if disk.get("hangs"):
            cause = "the server or the device behind it does not answer: what reads or writes there hangs"
            fix = "findmnt; dmesg | tail -50; umount -f -l what is gone, or another folder"
            yield bad("disk.hangs", f"{disk['path']} ({disk.get('use')}) does not answer", cause, fix)


def volatile(host: Host) -> Iterator[Finding]:
    disk = host.disk("work")
    if disk.get("type") in ("tmpfs", "ramfs"):
        cause = "it is memory: a checkpoint there is lost at a reboot, and counts as used memory"
        fix = "--workdir on a disk"
    elif disk.get("type") == "overlay" and host.container:
        cause = "it is the container's own layer, which goes with the container"
        fix = "docker run -v /data:/data ... and --workdir /data; in Kubernetes a persistent volume"
    else:
        return
    yield warn("disk.volatile", f"{disk['path']} is {disk['type']}", cause, fix)


def no_exec(host: Host) -> Iterator[Finding]:
    disk = host.disk("temporary")
    if "noexec" in str(disk.get("options", "")).split(","):
        yield warn(
            "disk.noexec",
            f"{disk['path']} is mounted noexec: compiled kernels end with failed to map segment from "
            "shared object",
            "torch.compile, Triton and Ray load libraries that they build there",
            'mkdir -p "$HOME/tmp" && export TMPDIR="$HOME/tmp"',
            source="https://github.com/pytorch/pytorch/issues/91005",
        )


def no_lock(host: Host) -> Iterator[Finding]:
    disk = host.disk("work")
    options = str(disk.get("options", "")).split(",")
    if str(disk.get("type", "")).startswith("nfs") and ({"nolock", "local_lock=all"} & set(options)):
        yield warn(
            "disk.no_lock",
            f"{disk['path']} is NFS without locks ({disk['type']})",
            "two hosts may write the same database or hold the same run",
            f"mount {disk['mount']} without nolock (nfsvers=4.1), or --workdir on a disk of this host",
        )


def clock(host: Host) -> Iterator[Finding]:
    tracking, shown = host.output("chronyc", "tracking"), host.output("timedatectl", "show")
    off = re.search(r"System time\s*:\s*([\d.]+) seconds (\w+)", tracking)
    apart = off and float(off[1]) > CLOCK_OFF_S
    stopped = "Not synchronised" in tracking or (
        "NTPSynchronized=no" in shown and not host.has("chronyc", "tracking")
    )
    if host.container or host.wsl or not (apart or stopped):
        return
    seen = f"the clock is {off[1]} s {off[2]}" if off and apart else "the clock is not synchronised"
    cause = "no time server answers, or no service asks one: tokens, certificates and logs of hosts disagree"
    yield warn(
        "clock.unsynchronised", seen, cause, "sudo systemctl enable --now chrony && sudo chronyc makestep"
    )


def python(host: Host) -> Iterator[Finding]:
    version = str(host.facts.get("python", {}).get("version", ""))
    if version and older(version, PYTHON):
        cause = f"steelyard needs {PYTHON}"
        fix = (
            f"install {PYTHON} beside it (uv python install {PYTHON}, apt install python{PYTHON}) and "
            "name it: --python"
        )
        yield warn("python.old", f"python3 is {version}", cause, fix)


RULES = (files, locked, address_space, space, hangs, volatile, no_exec, no_lock, clock, python)
