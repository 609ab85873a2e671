"""Intel Gaudi: driver against software, kernel modules, scale-up links, the container's runtime."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..compatibility import needed
from ..finding import Finding, bad, ok
from ..snapshot import HABANA, Host
from ..versions import compared, numbers, release, within

SCALE_UP_LINKS = 21  # of a Gaudi 2 or 3 in a server of eight
PLUGIN = "habana-torch-plugin"
INSTALL = "https://docs.habana.ai/en/latest/Installation_Guide"


def driver(host: Host) -> str:
    shown = re.search(r"Driver Version:\s*([\d.]+)", host.output("hl-smi"))
    files = host.matching(r"/sys/class/(accel/accel\d+/device|habanalabs/hl\d+)/driver_ver")
    return shown[1] if shown else next((release(text, 3) for text in files.values()), "")


def here(host: Host) -> bool:
    return bool(host.pci(HABANA)) or host.has("hl-smi") or bool(host.package(PLUGIN))


def what(host: Host) -> Iterator[Finding]:
    names = re.findall(r"\bHL-\d+\w*", host.output("hl-smi"))
    if names and driver(host):
        yield ok("gaudi", f"{len(names)} Gaudi ({', '.join(sorted(set(names)))}), driver {driver(host)}")


def mismatch(host: Host) -> Iterator[Finding]:
    plugin, version = host.package(PLUGIN), driver(host)
    if plugin and version and compared(release(plugin, 3), release(version, 3)):
        yield bad(
            "gaudi.version_mismatch",
            f"{PLUGIN} is {plugin}, the driver {version}: Device acquire failed",
            "driver, firmware, SynapseAI and the PyTorch plugin must be of one release",
            f"sudo apt install habanalabs-dkms={release(plugin, 3)}-{(numbers(plugin) + (0,) * 4)[3]}, or "
            "an image of "
            f"{release(version, 3)}",
            source="https://github.com/containers/ai-lab-recipes/pull/587",
        )


def module(host: Host) -> Iterator[Finding]:
    cards, modules = host.pci(HABANA), host.modules()
    unloaded = (
        "driver is not loaded" in host.output("hl-smi").lower()
        or "no such device" in host.output("hl-smi").lower()
    )
    if host.container or not (unloaded or (cards and "habanalabs" not in modules)):
        return
    yield bad(
        "gaudi.no_driver",
        f"{len(cards)} Gaudi on the bus, and the module habanalabs is not loaded",
        "the driver is not installed, or not built for this kernel",
        "sudo dkms autoinstall && sudo modprobe habanalabs; dkms status habanalabs",
        certainty="sure" if "habanalabs" not in modules else "likely",
    )


def networks(host: Host) -> Iterator[Finding]:
    cards, modules = host.pci(HABANA), host.modules()
    if len(cards) > 1 and "habanalabs" in modules and "habanalabs_ib" not in modules and not host.container:
        yield bad(
            "gaudi.no_ib",
            "the module habanalabs_ib is not loaded: hcl_ibverbs_t::init failed to find matching Habana "
            "IB device",
            "the package habanalabs-rdma-core or the module is missing from the host",
            "sudo modprobe -a ib_uverbs habanalabs_ib; rdma dev shows hlib_0 ... afterwards",
            source="https://github.com/containers/ai-lab-recipes/issues/483",
        )


def links(host: Host) -> Iterator[Finding]:
    states: dict[str, int] = {}
    for name, state in re.findall(
        r"^link ((?:hlib|hbl)_\d+)/\d+ state (\w+)", host.output("rdma", "link"), re.M
    ):
        states[name] = states.get(name, 0) + (state == "ACTIVE")
    short = {name: up for name, up in states.items() if up < SCALE_UP_LINKS}
    if len(states) > 1 and short:
        worst = min(short, key=lambda name: short[name])
        yield bad(
            "gaudi.links_down",
            f"{worst} has {short[worst]} of {SCALE_UP_LINKS} scale-up links up ({len(short)} cards are "
            "short)",
            "a link inside the box is down, or ports are switched off",
            "sudo /opt/habanalabs/qual/gaudi3/bin/manage_network_ifs.sh --up; hl-smi -n link; then "
            "cables and reset",
            certainty="likely",
            source="https://docs.habana.ai/en/latest/Management_and_Monitoring/Network_Configuration/index.html",
        )


def runtime(host: Host) -> Iterator[Finding]:
    wanted = host.env("HABANA_VISIBLE_DEVICES")
    if host.container and wanted and not host.device(r"/dev/(accel/accel\d+|hl\d+)"):
        yield bad(
            "gaudi.container_runtime",
            f"HABANA_VISIBLE_DEVICES={wanted}, and the container has no /dev/accel",
            "it was started without the habana runtime",
            "docker run --runtime=habana -e HABANA_VISIBLE_DEVICES=all --cap-add=sys_nice ...",
        )


def stock_torch(host: Host) -> Iterator[Finding]:
    torch, plugin = host.package("torch"), host.package(PLUGIN)
    pair = needed("gaudi", plugin, "torch") if plugin else None
    if torch and host.pci(HABANA) and not plugin and host.torch_built_for("cuda"):
        cause = "pip took the CUDA build; the plugin and its torch come from Intel's index"
        fix = f"use vault.habana.ai's image, or {INSTALL}"
        yield bad("gaudi.stock_torch", f"torch {torch} is not Gaudi's, {PLUGIN} is missing", cause, fix)
    elif torch and pair and not within(torch, pair.at_least, pair.below):
        cause = f"release {release(str(plugin))} is built for torch {pair.wanted()}"
        fix = f"take torch from the same release's image: {INSTALL}"
        yield bad("gaudi.torch", f"torch {torch} with {PLUGIN} {plugin}", cause, fix, source=pair.source)


RULES = (what, mismatch, module, networks, links, runtime, stock_torch)
