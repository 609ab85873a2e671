"""Machines on one: network namespaces that a bridge joins. Linux with `ip`, as root."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


def ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, stderr=None if check else subprocess.DEVNULL)


@contextmanager
def network(bridge: str, links: str, machines: Mapping[str, str], here: str | None = None) -> Iterator[None]:
    """A namespace for each of {name: address}, their ends at the bridge named `links` and a number; `here` is
    this machine's own address there. What an earlier run left is taken down first."""
    take_down(bridge, machines)
    ip("link", "add", bridge, "type", "bridge")
    if here:
        ip("addr", "add", f"{here}/24", "dev", bridge)
    ip("link", "set", bridge, "up")
    try:
        for number, (name, address) in enumerate(machines.items()):
            ip("netns", "add", name)
            ip("link", "add", f"{links}{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", f"{links}{number}", "master", bridge)
            ip("link", "set", f"{links}{number}", "up")
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield
    finally:
        take_down(bridge, machines)


def take_down(bridge: str, machines: Mapping[str, str]) -> None:
    for name in machines:
        ip("netns", "del", name, check=False)
    ip("link", "del", bridge, check=False)
