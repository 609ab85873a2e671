"""The network of one host: proxies, interfaces, ports. What concerns several hosts is in clashes.py."""

from __future__ import annotations

from collections.abc import Iterator

from ..finding import Finding, ok, warn
from ..snapshot import Host

PORT = 8000  # of steelyard serve
LOCAL = ("localhost", "127.0.0.1", "127.0.0.0/8", "127.", "*")


def proxy(host: Host) -> Iterator[Finding]:
    set_ = [name for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY") if host.env(name)]
    without = {word.strip() for word in (host.env("no_proxy") or host.env("NO_PROXY")).split(",")}
    if set_ and not without & set(LOCAL):
        yield warn(
            "network.proxy",
            f"{set_[0]} is set, and no_proxy leaves out neither localhost nor 127.0.0.1",
            "requests to services of this host go to the proxy, which answers 403 or 503",
            'export no_proxy="localhost,127.0.0.1,$no_proxy" NO_PROXY="localhost,127.0.0.1,$NO_PROXY"',
            source="https://github.com/unslothai/unsloth/pull/6752",
        )


def interface(host: Host) -> Iterator[Finding]:
    here = host.facts.get("interfaces", {})
    for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "HCCL_SOCKET_IFNAME"):
        value = host.env(name)
        if not value or value.startswith("^") or not here:
            continue
        wanted = [word.strip().lstrip("=") for word in value.split(",")]
        exact = value.startswith("=") or name.startswith("GLOO")
        if not any(i == w or (not exact and i.startswith(w)) for i in here for w in wanted):
            yield warn(
                "network.interface",
                f"{name}={value}, and no interface here has that name",
                "processes find no socket interface, or bind to an empty address",
                f"export {name}={_first(here)}   # of {', '.join(here)}",
                source="https://github.com/NVIDIA/nccl/issues/1837",
            )


def _first(interfaces: dict[str, dict[str, object]]) -> str:
    physical = [
        n for n in interfaces if n != "lo" and not n.startswith(("docker", "veth", "br-", "cni", "flannel"))
    ]
    return next((n for n in physical if interfaces[n].get("state") == "up"), next(iter(physical), "lo"))


def port(host: Host) -> Iterator[Finding]:
    if PORT in host.facts.get("listening", ()):
        yield ok("network.port", f"port {PORT} is in use: steelyard serve needs --port here")


RULES = (proxy, interface, port)
