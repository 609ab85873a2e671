"""What differs between hosts that are to work together. Pure: snapshots in, findings out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from .finding import Finding, bad, warn
from .rules import gaudi, nvidia
from .snapshot import Host
from .versions import numbers, release

CLOCK_APART_S = 2.0  # a snapshot takes less than that to arrive
RAY_PORT = 6379  # of its head
SAME = ("torch", "steelyard", "vllm", "transformers", "nccl")
Named = Mapping[str, Host]


def between(snapshots: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Findings over hosts by their names; none for one host."""
    hosts = {name: Host(facts) for name, facts in snapshots.items()}
    return [finding for rule in RULES for finding in rule(hosts)] if len(hosts) > 1 else []


def _groups(hosts: Named, value: Callable[[Host], str]) -> dict[str, list[str]]:
    """{value: names of the hosts that have it}, hosts without left out."""
    groups: dict[str, list[str]] = {}
    for name, host in hosts.items():
        if shown := value(host):
            groups.setdefault(shown, []).append(name)
    return groups


def _told(groups: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{value} on {', '.join(groups[value])}" for value in sorted(groups, key=_order))


def _order(version: str) -> tuple[tuple[int, ...], str]:
    """By numbers: 3.12 is after 3.9."""
    return numbers(version), version


def _newest(versions: Iterable[str]) -> str:
    return max(versions, key=_order)


def python(hosts: Named) -> Iterator[Finding]:
    exact = any(host.package("ray") for host in hosts.values())
    groups = _groups(
        hosts, lambda h: release(str(h.facts.get("python", {}).get("version", "")), 3 if exact else 2)
    )
    if len(groups) > 1:
        cause = (
            "Ray wants the same Python to the last number"
            if exact
            else "pickles and wheels go by the minor version"
        )
        fix = f"one version on all: uv python install {_newest(groups)}, and name it: --python"
        yield bad(
            "clash.python",
            f"Python differs: {_told(groups)}",
            cause,
            fix,
            certainty="sure" if exact else "likely",
        )


def ray(hosts: Named) -> Iterator[Finding]:
    groups = _groups(hosts, lambda h: h.package("ray") or "")
    if len(groups) > 1:
        cause = "a node of another version is refused: Version mismatch: The cluster was started with"
        yield bad(
            "clash.ray",
            f"Ray differs: {_told(groups)}",
            cause,
            f"pip install 'ray=={_newest(groups)}' on all",
        )


def packages(hosts: Named) -> Iterator[Finding]:
    for package in SAME:
        groups = _groups(hosts, lambda h, package=package: h.package(package) or "")  # type: ignore[misc]
        if len(groups) > 1:
            cause = "processes of one job would compute, or talk, differently"
            seen = f"{package} differs: {_told(groups)}"
            yield warn("clash.package", seen, cause, f"pip install '{package}=={_newest(groups)}' on all")


def driver(hosts: Named) -> Iterator[Finding]:
    kinds: tuple[tuple[str, Callable[[Host], str]], ...] = (
        ("the NVIDIA driver", nvidia.driver),
        ("the Gaudi driver", gaudi.driver),
        ("amdgpu", lambda host: host.file("/sys/module/amdgpu/version")),
    )
    for name, version in kinds:
        groups = _groups(hosts, version)
        if len(groups) > 1:
            cause = "one image cannot fit all; collectives between them may hang"
            yield warn(
                "clash.driver", f"{name} differs: {_told(groups)}", cause, "install one version on all hosts"
            )


def isa(hosts: Named) -> Iterator[Finding]:
    groups = _groups(hosts, lambda h: "with AMX" if "amx_tile" in h.cpu_flags else "without")
    if len(groups) > 1:
        cause = "kernels are chosen by instruction set: results differ in bits, and the slowest sets the pace"
        fix = "give a job hosts of one kind, or make all alike: ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16"
        yield warn("clash.isa", f"CPUs differ: {_told(groups)}", cause, fix)


def clock(hosts: Named) -> Iterator[Finding]:
    off = {name: float(h.facts["clock_off_s"]) for name, h in hosts.items() if "clock_off_s" in h.facts}
    if off and max(off.values()) - min(off.values()) > CLOCK_APART_S:
        far = max(off, key=lambda name: abs(off[name]))
        seen = (
            f"clocks are {max(off.values()) - min(off.values()):.1f} s apart ({far}: {off[far]:+.1f} s "
            "against here)"
        )
        cause = "no time service on one of them: tokens, certificates and timeouts disagree"
        yield bad(
            "clash.clock",
            seen,
            cause,
            f"on {far}: sudo systemctl enable --now chrony && sudo chronyc makestep",
        )


def mtu(hosts: Named) -> Iterator[Finding]:
    groups = _groups(hosts, lambda h: str(_mtu(h) or ""))
    if len(groups) > 1:
        cause = "large packets of one are dropped by the other: small messages pass, large ones hang"
        fix = f"sudo ip link set dev INTERFACE mtu {min(groups, key=int)} on all, and the same on the switch"
        yield warn("clash.mtu", f"MTU differs: {_told(groups)}", cause, fix, certainty="likely")


def _mtu(host: Host) -> int | None:
    """The largest MTU of an interface that is up and no bridge of containers."""
    virtual = ("lo", "docker", "veth", "br-", "cni", "flannel", "cali", "tun", "ifb")
    up = [
        i
        for n, i in host.facts.get("interfaces", {}).items()
        if i.get("state") == "up" and not n.startswith(virtual)
    ]
    return max((int(i["mtu"]) for i in up), default=None)


def loopback(hosts: Named) -> Iterator[Finding]:
    for name, host in hosts.items():
        addresses = host.facts.get("resolves") or ()
        if addresses and all(a.startswith("127.") or a == "::1" for a in addresses):
            cause = "its /etc/hosts says so: Gloo and Ray announce that address to the other hosts"
            fix = (
                f"in /etc/hosts of {name} give its own name the address of the network, or export "
                "GLOO_SOCKET_IFNAME"
            )
            seen = f"{name} resolves its own name to {', '.join(addresses)}"
            yield warn(
                "clash.loopback", seen, cause, fix, source="https://github.com/ray-project/ray/issues/24305"
            )


def ray_port(hosts: Named) -> Iterator[Finding]:
    names = [name for name, host in hosts.items() if RAY_PORT in host.facts.get("listening", ())]
    if names:
        cause = "Redis or another Ray listens there"
        fix = f"sudo ss -ltnp 'sport = :{RAY_PORT}'; steelyard cluster start ADDRESS:PORT with another port"
        yield warn(
            "clash.port", f"port {RAY_PORT} is in use on {', '.join(names)}", cause, fix, certainty="possible"
        )


RULES = (python, ray, packages, driver, isa, clock, mtu, loopback, ray_port)
