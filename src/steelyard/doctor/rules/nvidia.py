"""NVIDIA GPUs: driver, kernel module, container, fabric, memory, and the CUDA that torch was built for."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..compatibility import needed
from ..finding import Finding, Mend, bad, ok, warn
from ..snapshot import NVIDIA, Host
from ..versions import older, release, within

SILENT = "couldn't communicate with the NVIDIA driver"
MISMATCH = "Driver/library version mismatch"
SMI_COLUMNS = ("index", "name", "driver", "capability", "memory", "mig")
QUERY = ("nvidia-smi", "--query-gpu=index,name,driver_version,compute_cap,memory.total,mig.mode.current",
         "--format=csv,noheader")  # fmt: skip
REMAPPED = ("nvidia-smi", "-q", "-d", "ROW_REMAPPER")
FABRIC = ("systemctl", "status", "nvidia-fabricmanager", "--no-pager", "-l")
STOPPED = r"could not be found|inactive|failed"
CONSUMER = r"GeForce|\bRTX\b|TITAN|Quadro"


def gpus(host: Host) -> list[dict[str, str]]:
    """{"index", "name", "driver", "capability", "memory", "mig"} of each GPU that the driver shows."""
    rows = [[cell.strip() for cell in line.split(",")] for line in host.output(*QUERY).splitlines()]
    return [dict(zip(SMI_COLUMNS, row, strict=True)) for row in rows if len(row) == len(SMI_COLUMNS)]


def driver(host: Host) -> str:
    """The driver's version, or nothing."""
    shown = re.search(r"Driver Version:\s*([\d.]+)", host.output("nvidia-smi"))
    loaded = re.search(r"Kernel Module(?: for \S+)?\s+(\d[\d.]+)", host.file("/proc/driver/nvidia/version"))
    return shown[1] if shown else loaded[1] if loaded else host.file("/sys/module/nvidia/version")


def here(host: Host) -> bool:
    return bool(host.pci(NVIDIA)) or host.has("nvidia-smi") or bool(host.device(r"/dev/nvidia\d+"))


def what(host: Host) -> Iterator[Finding]:
    if here(host) and gpus(host):
        names = ", ".join(sorted({gpu["name"] for gpu in gpus(host)}))
        yield ok("nvidia", f"{len(gpus(host))} GPUs ({names}), driver {driver(host)}")


def mismatch(host: Host) -> Iterator[Finding]:
    text = host.output("nvidia-smi")
    if MISMATCH in text:
        library = re.search(r"NVML library version:\s*([\d.]+)", text)
        loaded = driver(host)
        versions = f" (module {loaded or 'unknown'}, library {library[1]})" if library else ""
        yield bad(
            "nvidia.version_mismatch",
            f"nvidia-smi: {MISMATCH}{versions}",
            "the driver was updated, and the old kernel module is still loaded",
            "sudo reboot; without: stop what uses the GPUs, sudo rmmod nvidia_uvm nvidia_drm "
            "nvidia_modeset nvidia",
        )


def no_module(host: Host) -> Iterator[Finding]:
    """Why the driver does not answer: Secure Boot, nouveau before it, or no module for this kernel."""
    present = bool(host.pci(NVIDIA))
    silent = SILENT in host.output("nvidia-smi")
    if host.wsl or not (silent or (present and not host.has("nvidia-smi") and not host.container)):
        return
    modules, said = (
        host.modules(),
        "nvidia-smi cannot reach the driver" if silent else "NVIDIA GPU without a driver",
    )
    rejected = host.kernel_log(r"Key was rejected|Required key not available|Lockdown.*unsigned module")
    if rejected or (
        "SecureBoot enabled" in host.output("mokutil", "--sb-state") and "nvidia" not in modules and silent
    ):
        cause = "Secure Boot is on and the module's key is not enrolled" + (
            f": {rejected}" if rejected else ""
        )
        fix = (
            "sudo mokutil --import /var/lib/shim-signed/mok/MOK.der, reboot and enroll it; or switch "
            "Secure Boot off"
        )
        sure = "sure" if rejected else "likely"
        yield bad("nvidia.secure_boot", said, cause, fix, certainty=sure)
    elif "nouveau" in modules or host.kernel_log(r"NVRM: nouveau|nouveau, rivafb"):
        cause = "nouveau, the kernel's own driver, holds the GPU"
        fix = (
            "echo 'blacklist nouveau' | sudo tee /etc/modprobe.d/nouveau.conf; sudo update-initramfs -u; "
            "sudo reboot"
        )
        yield bad("nvidia.nouveau", said, cause, fix)
    elif silent and "nvidia" not in modules:
        built = re.findall(r"nvidia/[\d.]+,\s*(\S+?),", host.output("dkms", "status"))
        others = f", only for {', '.join(built)}" if built and host.kernel not in built else ""
        cause = f"no nvidia module for kernel {host.kernel}{others}: the kernel was updated after the driver"
        fix = "sudo apt install linux-headers-$(uname -r) && sudo dkms autoinstall && sudo modprobe nvidia"
        yield bad("nvidia.no_module", said, cause, fix, certainty="sure" if others else "likely")
    elif silent:
        cause = "the module is loaded and does not answer"
        yield bad("nvidia.no_driver", said, cause, "dmesg | grep NVRM", certainty="likely")
    else:
        fix = "sudo ubuntu-drivers install --gpgpu (or your distribution's package); without, the CPU is used"
        yield warn("nvidia.no_driver", said, "no driver is installed", fix, certainty="likely")


def lost_in_container(host: Host) -> Iterator[Finding]:
    if "Failed to initialize NVML: Unknown Error" in host.output("nvidia-smi"):
        yield bad(
            "nvidia.container_lost",
            "nvidia-smi: Failed to initialize NVML: Unknown Error",
            "systemd reloaded its units on the host and took the GPUs from this container's cgroup",
            "start the container again; for good, on the host: sudo nvidia-ctk system "
            "create-dev-char-symlinks "
            "--create-all",
            source="https://github.com/NVIDIA/nvidia-container-toolkit/issues/48",
        )


def wsl_blocked(host: Host) -> Iterator[Finding]:
    if "GPU access blocked by the operating system" in host.output("nvidia-smi"):
        yield bad(
            "nvidia.wsl_blocked",
            "nvidia-smi: GPU access blocked by the operating system",
            "a Linux driver inside WSL covers the one that Windows lends, or the card is in TCC mode",
            "sudo apt purge 'nvidia-*' 'libnvidia-*' in WSL; on Windows wsl --update and a WDDM driver",
            certainty="likely",
        )


def runtime(host: Host) -> Iterator[Finding]:
    wanted = host.env("NVIDIA_VISIBLE_DEVICES")
    if host.container and wanted not in ("", "void", "none") and not host.device(r"/dev/(nvidia\d+|dxg)"):
        yield bad(
            "nvidia.container_runtime",
            f"NVIDIA_VISIBLE_DEVICES={wanted}, and the container has no /dev/nvidia*",
            "it was started without the NVIDIA runtime",
            "docker run --gpus all ...; in Kubernetes resources.limits: nvidia.com/gpu",
        )


def old_driver(host: Host) -> Iterator[Finding]:
    cuda, version = host.torch_built_for("cuda"), driver(host)
    pair = needed("cuda", cuda, "nvidia-driver") if cuda else None
    if pair and version and older(version, pair.at_least):
        yield bad(
            "nvidia.driver_old",
            f"torch {host.package('torch')} is built for CUDA {cuda}, the driver is {version}",
            f"CUDA {release(str(cuda), 1)} needs a driver of {pair.at_least} or later",
            "a newer driver (sudo ubuntu-drivers install --gpgpu), or a torch of an older CUDA: "
            "pip install torch --index-url https://download.pytorch.org/whl/cu118",
            source=pair.source,
        )


def forward_compatibility(host: Host) -> Iterator[Finding]:
    shown = re.search(r"CUDA Version:\s*([\d.]+)", host.output("nvidia-smi"))
    pair = needed("cuda", shown[1], "nvidia-driver") if shown else None
    names = " ".join(gpu["name"] for gpu in gpus(host)) or host.output("nvidia-smi")
    if shown and pair and older(driver(host), pair.at_least) and re.search(CONSUMER, names):
        yield bad(
            "nvidia.forward_compatibility",
            f"CUDA {shown[1]} over driver {driver(host)} on a GeForce or workstation GPU: error 804",
            "the image brings the cuda-compat libraries, which data-centre GPUs alone may use",
            "a newer driver on the host, or an image of an older CUDA; within it: rm -r "
            "/usr/local/cuda/compat",
            certainty="likely",
            source="https://github.com/SYSTRAN/faster-whisper/issues/653",
        )


def architecture(host: Host) -> Iterator[Finding]:
    cuda = host.torch_built_for("cuda")
    for gpu in gpus(host):
        pair = needed("compute-capability", gpu["capability"], "cuda")
        if cuda and pair and not within(cuda, pair.at_least, pair.below):
            sm = "sm_" + gpu["capability"].replace(".", "")
            yield bad(
                "nvidia.architecture",
                f"{gpu['name']} is {sm}, torch {host.package('torch')} (CUDA {cuda}) has no kernels for it",
                f"{sm} came with CUDA {pair.at_least}",
                "pip install --upgrade torch --index-url https://download.pytorch.org/whl/cu128",
                source=pair.source,
            )
            return


def fabric(host: Host) -> Iterator[Finding]:
    status = host.output(*FABRIC)
    clash = re.search(r"interface version ([\d.]+) don't match with driver version ([\d.]+)", status)
    switches = host.pci(NVIDIA, "0680")
    if clash:
        version = release(clash[2], 1)
        yield bad(
            "nvidia.fabric_mismatch",
            f"the fabric manager is {clash[1]}, the driver {clash[2]}: CUDA error 802, system not yet "
            "initialized",
            "both must be of one version, to the last number",
            f"sudo apt install nvidia-fabricmanager-{version}={clash[2]}-1 && sudo systemctl restart "
            "nvidia-fabricmanager",
        )
    elif switches and gpus(host) and not host.container and re.search(STOPPED, status):
        yield bad(
            "nvidia.fabric_missing",
            f"{len(switches)} NVSwitches, and no fabric manager runs: CUDA error 802, system not yet "
            "initialized",
            "GPUs of an HGX board join the fabric before CUDA starts",
            f"sudo apt install nvidia-fabricmanager-{release(driver(host), 1)} && sudo systemctl enable "
            "--now "
            "nvidia-fabricmanager",
            source="https://github.com/pytorch/pytorch/issues/35710",
        )


def fallen(host: Host) -> Iterator[Finding]:
    text = host.output("nvidia-smi")
    shown = re.search(r"Unable to determine the device handle for .*Unknown Error|.*GPU is lost.*", text)
    logged = host.kernel_log(r"fallen off the bus")
    if shown or logged:
        slot = re.search(
            r"[0-9a-fA-F]{4}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}", logged or (shown[0] if shown else "")
        )
        yield bad(
            "nvidia.fallen",
            (shown[0].strip() if shown else logged)[:160],
            "the GPU has fallen off the bus (Xid 79): power, heat, seating or a dying card",
            f"stop using it{' (' + slot[0] + ')' if slot else ''}, power the host off and on; again: have "
            "it replaced",
            certainty="sure" if shown else "likely",  # a reset may have brought it back since
        )


def adapter(host: Host) -> Iterator[Finding]:
    """The module is loaded and cannot start the GPU: the kernel log says whether it may at all."""
    text = host.output("nvidia-smi")
    closed = re.search(r"not supported by open\s+NVRM: nvidia\.ko", host.output("dmesg"))
    failed = host.kernel_log(r"RmInitAdapter failed")
    if not (
        closed
        or failed
        or "No devices were found" in text
        or ("device handle" in text and "Not Found" in text)
    ):
        return
    if closed:
        yield bad(
            "nvidia.open_module",
            "the open kernel module does not drive this GPU: No devices were found",
            "GPUs before Turing have no system processor (GSP), which that module needs",
            "sudo apt install nvidia-driver-580 in place of nvidia-driver-580-open, then reboot",
            source="https://github.com/NVIDIA/open-gpu-kernel-modules/issues/322",
        )
    else:
        yield bad(
            "nvidia.adapter",
            f"the driver cannot start the GPU: {failed or text.strip()[:120]}",
            "GSP firmware that does not load (module and user space of two installers), Above 4G Decoding or "
            "Resizable BAR off in the firmware, or a failing card",
            "dmesg | grep NVRM; install driver and module from one package; switch Above 4G Decoding on",
            certainty="possible",
            source="https://github.com/NVIDIA/open-gpu-kernel-modules/issues/862",
        )


def remapped(host: Host) -> Iterator[Finding]:
    text = host.output(*REMAPPED)
    if re.search(r"Remapping Failure Occurred\s*:\s*Yes", text):
        cause = "a memory row failed and no spare is left"
        yield bad(
            "nvidia.row_remap_failed", "Remapping Failure Occurred: Yes", cause, "have the GPU replaced"
        )
    elif re.search(r"^\s*Pending\s*:\s*Yes", text, re.M):
        rows = re.search(r"Uncorrectable Error\s*:\s*(\d+)", text)
        yield bad(
            "nvidia.row_remap_pending",
            f"memory rows wait to be replaced ({rows[1] if rows else 'some'} uncorrectable errors)",
            "the GPU takes its spare rows at its next reset",
            "stop what uses it, then: sudo nvidia-smi --gpu-reset (or reboot)",
            source="https://github.com/leptonai/gpud/pull/80",
        )


def mig(host: Host) -> Iterator[Finding]:
    on = [gpu["index"] for gpu in gpus(host) if gpu["mig"] == "Enabled"]
    if on and "MIG devices:" not in host.output("nvidia-smi"):
        empty = True
    else:
        empty = bool(on) and "No MIG devices found" in host.output("nvidia-smi")
    if empty:
        yield bad(
            "nvidia.mig_empty",
            f"MIG is on for GPU {', '.join(on)}, and no instance is made: CUDA finds no device",
            "with MIG a GPU is used by its instances alone",
            f"sudo nvidia-smi mig -cgi 0 -C (one whole instance), or sudo nvidia-smi -i {on[0]} -mig 0",
        )


def uvm(host: Host) -> Iterator[Finding]:
    if host.device(r"/dev/nvidia\d+") and not host.device(r"/dev/nvidia-uvm") and not host.wsl:
        inside = "docker run --device /dev/nvidia-uvm ... (or --gpus all)"
        yield bad(
            "nvidia.uvm",
            "/dev/nvidia-uvm is missing: nvidia-smi works, CUDA does not (unknown error)",
            "the container was given the GPUs by hand"
            if host.container
            else "the module nvidia_uvm is not loaded",
            inside if host.container else "sudo nvidia-modprobe -u -c=0",
            mend=None if host.container else Mend(run=("nvidia-modprobe", "-u", "-c=0")),
        )


def hidden(host: Host) -> Iterator[Finding]:
    value, count = host.env("CUDA_VISIBLE_DEVICES"), len(gpus(host))
    wanted = [int(part) for part in value.split(",") if part.strip().isdigit()]
    if count and wanted and max(wanted) >= count:
        cause = "CUDA stops reading at the first number that is not there"
        fix = f"export CUDA_VISIBLE_DEVICES={','.join(map(str, range(count)))}"
        yield warn("nvidia.visible", f"CUDA_VISIBLE_DEVICES={value}, and there are {count} GPUs", cause, fix)


RULES = (
    what, mismatch, no_module, lost_in_container, wsl_blocked, runtime, old_driver, forward_compatibility,
    architecture, fabric, fallen, adapter, remapped, mig, uvm, hidden,
)  # fmt: skip
