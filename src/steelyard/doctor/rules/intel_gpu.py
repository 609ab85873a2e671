"""Intel GPUs (Max, Flex, Arc): kernel driver, render nodes, Level Zero."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..finding import Finding, bad, ok
from ..snapshot import INTEL, Host

PACKAGES = "libze1 libze-intel-gpu1 (before 2024: level-zero intel-level-zero-gpu)"


def cards(host: Host) -> list[str]:
    """PCI slots of discrete Intel GPUs; one built into a CPU is 00:02.0."""
    return [str(d["slot"]) for d in host.pci(INTEL, "03") if not str(d["slot"]).endswith("00:02.0")]


def what(host: Host) -> Iterator[Finding]:
    shown = [line for line in host.output("sycl-ls").splitlines() if "level_zero:gpu" in line]
    names = {
        name for line in shown for name in re.findall(r"Intel\(R\) (?:Data Center|Arc)[^,\[]*?\d+", line)
    }
    if cards(host) and shown:
        yield ok("intel_gpu", f"{len(cards(host))} Intel GPUs ({', '.join(sorted(names)) or 'Level Zero'})")


def driver(host: Host) -> Iterator[Finding]:
    nodes = host.device(r"/dev/dri/renderD\d+")
    if cards(host) and len(nodes) < len(cards(host)) and not host.container:
        yield bad(
            "intel_gpu.no_driver",
            f"{len(cards(host))} Intel GPUs on the bus, {len(nodes)} render nodes in /dev/dri",
            "no kernel driver holds the card: i915 (or xe) of this kernel does not know it",
            "install intel-i915-dkms (or a kernel of 6.8 or later) and reboot: https://dgpu-docs.intel.com",
            certainty="likely",
            source="https://github.com/intel/intel-extension-for-pytorch/issues/678",
        )


def permission(host: Host) -> Iterator[Finding]:
    locked = {p: d for p, d in host.device(r"/dev/dri/renderD\d+").items() if not d["usable"]}
    if cards(host) and locked:
        path, device = next(iter(locked.items()))
        inside = f"docker run --device /dev/dri --group-add $(stat -c %g {path}) ..."
        yield bad(
            "intel_gpu.permission",
            f"{path} cannot be opened ({device['mode']}, group {device['group']})",
            f"this user is not in the group {device['group']}",
            inside if host.container else f"sudo usermod -aG {device['group']} $USER, then log in again",
        )


def loader(host: Host) -> Iterator[Finding]:
    xpu = host.torch_built_for("xpu") or "+xpu" in (host.package("torch") or "")
    if (
        (cards(host) or xpu)
        and host.has("ldconfig", "-p")
        and "libze_loader" not in host.output("ldconfig", "-p")
    ):
        yield bad(
            "intel_gpu.no_loader",
            "libze_loader.so.1 is not here: import torch fails (cannot open shared object file)",
            "the Level Zero loader is not installed",
            f"sudo apt install {PACKAGES}",
            source="https://github.com/intel/intel-extension-for-pytorch/issues/666",
        )


def level_zero(host: Host) -> Iterator[Finding]:
    text = host.output("sycl-ls")
    shown = "opencl:gpu" in text and "level_zero" not in text
    if cards(host) and shown and "libze_loader" in host.output("ldconfig", "-p"):
        cause = "its driver (libze_intel_gpu) is missing, or older than what this oneAPI asks for"
        yield bad(
            "intel_gpu.no_level_zero",
            "sycl-ls shows the GPU by OpenCL and not by Level Zero: torch finds no XPU",
            cause,
            f"sudo apt install --upgrade {PACKAGES}",
            certainty="likely",
            source="https://github.com/intel/compute-runtime/issues/764",
        )


RULES = (what, driver, permission, loader, level_zero)
