"""SGX and TDX: what the CPU has, and the devices through which programs reach it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..compatibility import needed
from ..finding import Finding, warn
from ..snapshot import Host
from ..versions import older


def wanted(host: Host) -> bool:
    """Whether somebody has set SGX up here: every Skylake has the flag, few use it."""
    return bool(host.file("/etc/sgx_default_qcnl.conf") or host.device(r"/dev/(sgx|isgx).*"))


def sgx(host: Host) -> Iterator[Finding]:
    locked = host.kernel_log(r"SGX Launch Control is locked")
    off = host.kernel_log(r"SGX disabled (or unsupported )?by BIOS") if wanted(host) else ""
    enclave = host.device(r"/dev/(sgx_enclave|sgx/enclave)")
    pair = needed("sgx", "1", "kernel")
    if enclave or host.container:
        return
    if locked or off:
        cause = "the firmware leaves SGX off, or its launch control locked"
        fix = "in the firmware's set-up: SGX enabled, SGX Launch Control unlocked (Flexible Launch Control)"
        yield warn("sgx.firmware", (locked or off)[-120:], cause, fix)
    elif host.device(r"/dev/isgx"):
        cause = "the old out-of-tree driver isgx is loaded, before Linux had its own"
        fix = "sudo systemctl stop aesmd; sudo rmmod isgx and remove it; boot a kernel of 5.11 or later"
        yield warn("sgx.old_driver", "/dev/isgx is here, /dev/sgx_enclave is not", cause, fix)
    elif "sgx" in host.cpu_flags and wanted(host) and pair and older(host.kernel, pair.at_least):
        cause = f"kernel {host.kernel}: the SGX driver came with {pair.at_least}"
        fix = f"boot a kernel of {pair.at_least} or later"
        yield warn(
            "sgx.kernel", "the CPU has SGX, /dev/sgx_enclave is missing", cause, fix, source=pair.source
        )


def tdx(host: Host) -> Iterator[Finding]:
    if "tdx_guest" not in host.cpu_flags or host.container:
        return
    pair = needed("tdx-quote", "1", "kernel")
    if pair and older(host.kernel, pair.at_least):
        cause = f"kernel {host.kernel}: quotes by configfs-tsm came with {pair.at_least}"
        fix = f"boot a kernel of {pair.at_least} or later"
        yield warn("tdx.kernel", "a trust domain that cannot make quotes", cause, fix, source=pair.source)
    elif not host.device(r"/dev/tdx_guest"):
        distribution = (
            "linux-modules-extra" if re.search(r"ubuntu", host.file("/etc/os-release"), re.I) else ""
        )
        extra = f"sudo apt install {distribution}-$(uname -r) && " if distribution else ""
        yield warn(
            "tdx.module",
            "a trust domain without /dev/tdx_guest: no quote can be made",
            "the module tdx_guest is not loaded"
            + (f"; Ubuntu has it in {distribution}" if distribution else ""),
            f"{extra}sudo modprobe tdx_guest",
            source="https://github.com/canonical/tdx/issues/70",
        )


RULES = (sgx, tdx)
