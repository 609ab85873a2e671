"""Python packages and the libraries they load: pins that clash, other builds, paths that shadow."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ...telemetry import BLOCKED
from ..compatibility import broken
from ..finding import Finding, Mend, bad, ok, warn
from ..snapshot import AMD, NVIDIA, Host
from ..versions import older, release, requirement, satisfies

WANTED = ("numpy", "torch", "openvino", "openvino-genai", "tokenizers")  # the whole path on one CPU
# Rows of the table whose both sides are packages or the C library.
PAIRED = ("torch", "intel-extension-for-pytorch")
INDEX = "https://download.pytorch.org/whl"


def present(host: Host) -> Iterator[Finding]:
    if host.package("steelyard") is None:
        return  # another host's system Python need not have them
    lacking = [name for name in WANTED if host.package(name) is None]
    if lacking:
        cause = "the core was installed alone"
        fix = "in the steelyard checkout: pip install -c constraints.txt '.[cpu]'"
        yield warn("packages", f"not installed: {', '.join(lacking)}", cause, fix)
    else:
        yield ok("packages", ", ".join(f"{name} {host.package(name)}" for name in (*WANTED, "steelyard")))


def pins(host: Host) -> Iterator[Finding]:
    for package, lines in host.facts.get("requires", {}).items():
        for name, wanted in filter(None, map(requirement, lines)):
            version = host.package(name)
            if version and not satisfies(version, wanted):
                yield warn(
                    "packages.pin",
                    f"{package} {host.package(package)} needs {name}{wanted}, {version} is installed",
                    "another package was installed later and moved it",
                    f"pip install '{name}{wanted}', or another {package}; apart: one environment for each",
                )


def pairs(host: Host) -> Iterator[Finding]:
    versions = dict(host.facts.get("packages", {}))
    versions["glibc"] = host.facts.get("system", {}).get("glibc") or None
    for pair in broken(versions):
        if pair.subject not in PAIRED or host.package("habana-torch-plugin"):
            continue
        other, subject = versions[pair.needs], versions[pair.subject]
        name = {"torchvision": "packages.torchvision", "numpy": "packages.numpy", "glibc": "packages.glibc"}
        seen = f"{pair.subject} {subject} goes with {pair.needs} {pair.wanted()}, {other} is here"
        if pair.needs == "glibc":
            cause = "the wheel is built for a newer C library (manylinux_2_28) than this system has"
            fix = "a newer system or container image; or an older torch: pip install 'torch<2.6'"
        else:
            cause = "both are built against each other's binary interface, and one was changed alone"
            fix = f"pip install '{pair.needs}{_specifier(pair.at_least, pair.below)}'"
        yield bad(name.get(pair.needs, "packages.pair"), seen, cause, fix, source=pair.source)


def _specifier(at_least: str, below: str) -> str:
    return ",".join(part for part in (at_least and f">={at_least}", below and f"<{below}") if part)


def build(host: Host) -> Iterator[Finding]:
    torch = host.package("torch")
    plain = (
        torch and not host.facts.get("torch", {}).get("cuda") and not host.facts.get("torch", {}).get("hip")
    )
    if not torch or not plain or host.package("habana-torch-plugin"):
        return
    cpu_only = "+cpu" in torch
    works = (
        host.has("nvidia-smi")
        and not host.failed("nvidia-smi")
        and "CUDA Version" in host.output("nvidia-smi")
    )
    if cpu_only and works and host.package("steelyard") is None:
        cause = "the CPU build was installed, or stayed in pip's cache"
        fix = f"pip install --force-reinstall --no-cache-dir torch --index-url {INDEX}/cu128"
        seen = (
            f"torch {torch} is the CPU build, and there is an NVIDIA GPU: Torch not compiled with CUDA "
            "enabled"
        )
        yield warn("packages.cpu_build", seen, cause, fix)


def other_maker(host: Host) -> Iterator[Finding]:
    amd = [d for d in host.pci(AMD) if d["class"].startswith(("12", "0380"))]
    if host.torch_built_for("cuda") and amd and not host.pci(NVIDIA):
        seen = f"torch {host.package('torch')} is built for CUDA, the GPUs here are AMD's"
        fix = f"pip install --force-reinstall torch --index-url {INDEX}/rocm6.4"
        yield warn("packages.cuda_on_amd", seen, "pip takes the CUDA build where no index is named", fix)


def library_path(host: Host) -> Iterator[Finding]:
    cuda = host.torch_built_for("cuda")
    for folder in host.env("LD_LIBRARY_PATH").split(":"):
        found = re.search(r"cuda-(\d+\.\d+)", folder)
        if cuda and found and release(found[1], 1) == release(cuda, 1) and older(found[1], cuda):
            yield bad(
                "packages.library_path",
                f"LD_LIBRARY_PATH has {folder}, torch is built for CUDA {cuda}",
                "the loader takes the older libraries before torch's own: undefined symbol: __nvJitLink...",
                "unset LD_LIBRARY_PATH; torch's wheels bring their libraries",
                certainty="likely",
                source="https://github.com/pytorch/pytorch/issues/152783",
            )
            return


def preload(host: Host) -> Iterator[Finding]:
    missing = host.facts.get("missing_preloads") or ()
    if missing:
        seen = f"LD_PRELOAD names {', '.join(missing)}, which is not here: cannot be preloaded, ignored"
        cause = "the library was removed, or lies elsewhere on this system"
        yield warn(
            "packages.preload",
            seen,
            cause,
            "ldconfig -p | grep -E 'tcmalloc|iomp5|jemalloc'   # then that path",
        )


def two_openmp(host: Host) -> Iterator[Finding]:
    if host.env("KMP_DUPLICATE_LIB_OK").lower() in ("true", "1", "yes"):
        yield warn(
            "packages.two_openmp",
            "KMP_DUPLICATE_LIB_OK is set: two OpenMP runtimes run in one process",
            "it hides OMP: Error #15; results may be wrong, threads fight for the cores",
            "unset KMP_DUPLICATE_LIB_OK; keep one runtime: pip uninstall intel-openmp, or conda install "
            "nomkl",
            certainty="likely",
        )


def reporters(host: Host) -> Iterator[Finding]:
    """Packages that steelyard keeps out of its processes; other programs of this environment load them."""
    for name in (blocked.replace("_", "-") for blocked in BLOCKED):
        if host.package(name):
            yield warn(
                "telemetry",
                f"{name} is installed: steelyard never loads it, others may",
                "openvino asks for it",
                f"pip uninstall {name} (OpenVINO works without)",
                mend=Mend(run=("pip", "uninstall", "--yes", name), needs_root=False),
            )


RULES = (
    present, pins, pairs, build, other_maker, library_path, preload, two_openmp, reporters,
)  # fmt: skip
