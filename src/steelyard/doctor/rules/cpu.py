"""The CPU: instructions that the chip has and this system does not show or grant, and its clock."""

from __future__ import annotations

from collections.abc import Iterator

from ..compatibility import needed
from ..finding import Finding, Mend, bad, ok, warn
from ..snapshot import Host
from ..versions import older

# Models of family 6 with AMX: Sapphire Rapids, Emerald Rapids, Granite Rapids (<asm/intel-family.h>).
AMX_MODELS = (0x8F, 0xCF, 0xAD, 0xAE)
SHOWN = (
    "avx2",
    "avx512f",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "bf16",
    "i8mm",
    "sve",
    "sgx",
    "tdx_guest",
)
GOVERNORS = "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"


def what(host: Host) -> Iterator[Finding]:
    flags = [flag for flag in SHOWN if flag in host.cpu_flags]
    low = {"amx_bf16", "avx512_bf16", "bf16"} & host.cpu_flags
    text = (
        f"{host.cpu_model}: {host.facts.get('processors')} threads, "
        f"{', '.join(flags) or 'no vector instructions'}"
    )
    yield ok("cpu", text if low else f"{text}; no BF16: training computes in FP32, serving in INT8")


def amx_hidden(host: Host) -> Iterator[Finding]:
    maker, family, model = host.cpu_id
    if (maker, family) != ("GenuineIntel", 6) or model not in AMX_MODELS or "amx_tile" in host.cpu_flags:
        return
    pair = needed("amx", "1", "kernel")
    seen = f"{host.cpu_model} has AMX, its flags here have no amx_tile"
    if pair and older(host.kernel, pair.at_least):
        cause = f"kernel {host.kernel}: AMX came with {pair.at_least}"
        yield warn(
            "cpu.amx_kernel", seen, cause, f"boot a kernel of {pair.at_least} or later", source=pair.source
        )
    elif "hypervisor" in host.cpu_flags:
        cause = "the hypervisor masks it"
        fix = (
            "on its host: -cpu host for QEMU, a CPU model with AMX for libvirt; in a cloud: a type of "
            "machine with AMX"
        )
        yield warn("cpu.amx_hypervisor", seen, cause, fix, certainty="likely")
    else:
        cause = "switched off in the firmware, or by clearcpuid= at boot"
        yield warn(
            "cpu.amx_firmware", seen, cause, "look for clearcpuid in: cat /proc/cmdline", certainty="possible"
        )


def amx_refused(host: Host) -> Iterator[Finding]:
    permission = str(host.facts.get("amx_permission") or "")
    if "amx_tile" not in host.cpu_flags or not permission.startswith("refused"):
        return
    why = permission.partition(": ")[2]
    yield bad(
        "cpu.amx_refused",
        f"the CPU has AMX, the kernel refuses its tile registers to this process ({why})",
        "a sandbox or seccomp filter blocks arch_prctl(ARCH_REQ_XCOMP_PERM)",
        "docker run --security-opt seccomp=unconfined ..., or a sandbox other than gVisor",
        certainty="likely",
    )


def avx2_hidden(host: Host) -> Iterator[Finding]:
    if (
        host.facts.get("system", {}).get("machine") != "x86_64"
        or not host.cpu_flags
        or "avx2" in host.cpu_flags
    ):
        return
    seen = f"{host.cpu_model} shows no AVX2: torch and numpy end with Illegal instruction"
    virtual = "hypervisor" in host.cpu_flags or any(word in host.cpu_model for word in ("KVM", "QEMU"))
    cause = "the virtual machine's CPU type hides it" if virtual else "the CPU is from before 2013"
    fix = (
        "stop the machine and set its CPU type to host (Proxmox: qm set VMID --cpu host)"
        if virtual
        else "another host"
    )
    yield bad("cpu.avx2_hidden", seen, cause, fix, certainty="likely" if virtual else "sure")


def governor(host: Host) -> Iterator[Finding]:
    folder = "/sys/devices/system/cpu/cpu0/cpufreq"
    driver = host.file(f"{folder}/scaling_driver")
    if (
        host.file(f"{folder}/scaling_governor") != "powersave" or "pstate" in driver
    ):  # pstate's powersave does scale
        return
    yield warn(
        "cpu.governor",
        f"the governor is powersave ({driver or 'unknown driver'})",
        "it holds every core at its lowest clock",
        f"echo performance | sudo tee {GOVERNORS}",
        mend=Mend(write=(GOVERNORS, "performance")),
    )


RULES = (what, amx_hidden, amx_refused, avx2_hidden, governor)
