"""AMD GPUs: permission, module, container, overrides of the architecture, ROCm against the GPU."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..compatibility import needed
from ..finding import Finding, bad, ok
from ..snapshot import AMD, Host
from ..versions import within


def architectures(host: Host) -> list[str]:
    """Names such as gfx942 of the GPUs that rocminfo or rocm-smi show."""
    text = host.output("rocminfo") + host.output("rocm-smi")
    return sorted(set(re.findall(r"\bgfx[0-9a-f]{3,5}\b", text)))


def rocm(host: Host) -> str:
    """The ROCm of torch, else the one installed."""
    return host.torch_built_for("hip") or host.file("/opt/rocm/.info/version")


def wanted(host: Host) -> bool:
    """Whether the GPU is meant to compute: ROCm is here, or it is made for nothing else."""
    compute = [d for d in host.pci(AMD) if d["class"].startswith(("12", "0380"))]
    return bool(compute or host.has("rocminfo") or host.torch_built_for("hip"))


def what(host: Host) -> Iterator[Finding]:
    names = architectures(host)
    if names:
        version = rocm(host) or "unknown"
        yield ok(
            "amd",
            f"AMD GPUs ({', '.join(names)}), ROCm {version}, amdgpu "
            f"{host.file('/sys/module/amdgpu/version')}",
        )


def permission(host: Host) -> Iterator[Finding]:
    text = host.output("rocminfo")
    refused = re.search(r"/dev/kfd read-write: (Permission denied|Operation not permitted)", text)
    locked = {p: d for p, d in host.device(r"/dev/(kfd|dri/renderD\d+)").items() if not d["usable"]}
    if not wanted(host) or not (refused or (locked and "/dev/kfd" in locked)):
        return
    group = str(next(iter(locked.values()))["group"]) if locked else "render"
    seen = refused[0] if refused else "/dev/kfd cannot be opened"
    if host.container:
        cause = f"the container's user is not in the group {group}, whose number on the host may differ"
        fix = f"docker run --group-add $(getent group {group} | cut -d: -f3) --group-add video ..."
    else:
        cause = f"this user is not in the group {group} that owns the device"
        fix = f"sudo usermod -aG {group},video $USER, then log in again"
    yield bad("amd.permission", seen, cause, fix)


def missing_device(host: Host) -> Iterator[Finding]:
    if "/dev/kfd read-write: No such file or directory" in host.output("rocminfo"):
        inside = "docker run --device=/dev/kfd --device=/dev/dri ...; apptainer: --bind /dev/kfd,/dev/dri"
        yield bad(
            "amd.no_kfd",
            "Unable to open /dev/kfd read-write: No such file or directory",
            "the container was not given the device"
            if host.container
            else "the amdgpu driver made no compute device",
            inside if host.container else "sudo modprobe amdgpu; dmesg | grep kfd",
            certainty="sure" if host.container else "likely",
        )


def module(host: Host) -> Iterator[Finding]:
    said = "ROCk module is NOT loaded" in host.output("rocminfo")
    if said or "amdgpu not found in modules" in host.output("rocm-smi"):
        yield bad(
            "amd.module",
            "ROCk module is NOT loaded" if said else "Driver not initialized (amdgpu not found in modules)",
            "the kernel was updated and amdgpu-dkms not built for it, or amdgpu is on a black list",
            "sudo modprobe amdgpu; dkms status amdgpu",
            certainty="likely",
        )


def override(host: Host) -> Iterator[Finding]:
    if "HSA_OVERRIDE_GFX_VERSION" not in host.facts.get("env", {}):
        return
    value = host.env("HSA_OVERRIDE_GFX_VERSION")
    majors = {name[3:-2] for name in architectures(host)}
    major = value.partition(".")[0]
    if value and (not majors or major in majors):
        return
    names = ", ".join(architectures(host)) or "the GPU"
    yield bad(
        "amd.override",
        f"HSA_OVERRIDE_GFX_VERSION={value or '(empty)'}, and {names} is here",
        "kernels of another generation are loaded: invalid device function, "
        "HSA_STATUS_ERROR_INVALID_ISA, or a crash",
        "unset HSA_OVERRIDE_GFX_VERSION",
        source="https://github.com/ROCm/rocm-systems/pull/5686",
    )


def too_new(host: Host) -> Iterator[Finding]:
    version = rocm(host)
    for name in architectures(host):
        pair = needed(f"rocm-gpu-{name}", "1", "rocm")
        if pair and version and not within(version, pair.at_least, pair.below):
            yield bad(
                "amd.rocm_old",
                f"{name} with ROCm {version}: programs end with a segmentation fault",
                f"{name} came with ROCm {pair.at_least}",
                f"pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/rocm{pair.at_least}",
                source=pair.source,
            )


RULES = (what, permission, missing_device, module, override, too_new)
