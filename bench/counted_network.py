"""A network namespace with nothing at its end: every name look-up and every packet that leaves is counted.

Inside are loopback and one interface with a default route (IPv4 and IPv6) to a neighbour that never answers;
a packet socket counts what arrives there. The one name server is ours, on loopback: it counts each question
and answers with an address outside, so that whoever asks goes on and dials. Names come from /etc/hosts and
that server, nothing else. Linux alone; needs `unshare` and `ip`, and root or user namespaces.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

INSIDE = "STEELYARD_BENCH_NAMESPACE"
SPACES = ("--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
SERVER = "127.0.0.53"
OUTSIDE = {
    1: socket.inet_aton("203.0.113.7"),
    28: socket.inet_pton(socket.AF_INET6, "2001:db8::7"),
}  # A, AAAA
LINK, END, NEIGHBOUR = "out0", "end0", "02:00:00:00:00:01"
SETUP = f"""
link set lo up
link add {LINK} type veth peer name {END}
link set {LINK} up
link set {END} up
addr add 10.99.0.2/24 dev {LINK}
neigh add 10.99.0.1 lladdr {NEIGHBOUR} dev {LINK} nud permanent
route add default via 10.99.0.1
"""
SETUP_IPV6 = f"""
-6 addr add fd99::2/64 dev {LINK} nodad
-6 neigh add fd99::1 lladdr {NEIGHBOUR} dev {LINK} nud permanent
-6 route add default via fd99::1
"""
ALL_PROTOCOLS = 3  # ETH_P_ALL of if_ether.h
IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
# The kernel's own words on a new IPv6 link (listener reports, neighbours, routers): no process sends them.
LINK_TALK = {130, 131, 132, 133, 134, 135, 136, 137, 143}


def unable() -> str | None:
    """Why no such namespace can be made here; None where one can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    lacking = [name for name in ("unshare", "ip", "mount") if shutil.which(name) is None]
    if lacking:
        return f"{', '.join(lacking)} not installed"
    # A user namespace may be allowed and a mount or a pair of interfaces in it not.
    trial = f"mount -t tmpfs none /mnt && ip link add {LINK} type veth peer name {END}"
    tried = subprocess.run([*_unshare(), "sh", "-c", trial], capture_output=True, text=True)
    return None if tried.returncode == 0 else f"no network namespace: {tried.stderr.strip() or 'refused'}"


def enter() -> None:
    """Run this script again inside a namespace and end with its exit code; returns only there."""
    if os.environ.get(INSIDE) is None:
        command = [*_unshare(), sys.executable, *sys.argv]
        os.execvpe(command[0], command, os.environ | {INSIDE: "1"})
    if os.getpid() == 1:
        _be_init()


def _unshare() -> list[str]:
    return ["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), *SPACES]


def _be_init() -> None:
    """The first process of a namespace reaps orphans; the work goes on in its child."""
    worker = os.fork()
    while worker:
        pid, status = os.wait()
        if pid == worker:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


@dataclass
class Counts:
    """What was counted since the last `take`."""

    lookups: list[str] = field(default_factory=list)  # the name of each question
    packets: list[str] = field(default_factory=list)  # where each was bound for

    def take(self) -> Counts:
        """What there is so far; counting begins anew."""
        taken = Counts(self.lookups[:], self.packets[:])
        del self.lookups[: len(taken.lookups)], self.packets[: len(taken.packets)]
        return taken


def count() -> Counts:
    """Set the namespace up and count from now on, in threads that end with the process."""
    _configure()
    counts = Counts()
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((SERVER, 53))
    tcp = socket.create_server((SERVER, 53))
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS))
    end.bind((END, 0))
    for work, source, into in (
        (_answer_udp, udp, counts.lookups),
        (_answer_tcp, tcp, counts.lookups),
        (_sniff, end, counts.packets),
    ):
        threading.Thread(target=work, args=(source, into), daemon=True).start()
    return counts


def _configure() -> None:
    settings = Path("/proc/sys/net")
    _ip(SETUP)
    if (settings / "ipv6").exists():
        (settings / "ipv6/conf" / END / "disable_ipv6").write_text("1")
        _ip(SETUP_IPV6)
    with tempfile.TemporaryDirectory() as folder:
        for name, text in {
            "resolv.conf": f"nameserver {SERVER}\noptions timeout:1 attempts:1\n",
            "nsswitch.conf": "hosts: files dns\n",
        }.items():
            (Path(folder) / name).write_text(text)
            if Path("/etc", name).exists():
                subprocess.run(["mount", "--bind", str(Path(folder) / name), f"/etc/{name}"], check=True)
        for cache in ("/run/nscd", "/var/run/nscd"):  # a socket of the host that would answer in our place
            if Path(cache).exists():
                subprocess.run(["mount", "-t", "tmpfs", "none", cache], check=True)


def _ip(lines: str) -> None:
    for line in filter(None, lines.splitlines()):
        subprocess.run(["ip", *line.split()], check=True)


# ------------------------------------------------------------------ the name server


def _answer_udp(server: socket.socket, lookups: list[str]) -> None:
    while True:
        question, client = server.recvfrom(4096)
        server.sendto(answer(question, lookups), client)


def _answer_tcp(server: socket.socket, lookups: list[str]) -> None:
    while True:
        client, _ = server.accept()
        with client:
            size = struct.unpack("!H", client.recv(2, socket.MSG_WAITALL))[0]
            reply = answer(client.recv(size, socket.MSG_WAITALL), lookups)
            client.sendall(struct.pack("!H", len(reply)) + reply)


def answer(question: bytes, lookups: list[str]) -> bytes:
    """The reply to one DNS message (RFC 1035) with an address outside; its name is added to `lookups`."""
    labels, at = [], 12
    while size := question[at]:
        labels.append(question[at + 1 : at + 1 + size].decode("ascii", "replace"))
        at += size + 1
    (kind,) = struct.unpack("!H", question[at + 1 : at + 3])
    lookups.append(".".join(labels))
    address = OUTSIDE.get(kind, b"")
    head = question[:2] + struct.pack("!HHHHH", 0x8180, 1, bool(address), 0, 0)
    record = b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 60, len(address)) + address if address else b""
    return head + question[12 : at + 5] + record


# ------------------------------------------------------------------ the end of the wire


def _sniff(end: socket.socket, packets: list[str]) -> None:
    while True:
        if destination := bound_for(end.recv(65535)):
            packets.append(destination)


def bound_for(frame: bytes) -> str | None:
    """The protocol and address that an Ethernet frame is bound for; None: link talk of the kernel."""
    (kind,), body = struct.unpack("!H", frame[12:14]), frame[14:]
    if kind == IPV4:
        return f"{_protocol(body[9])} {socket.inet_ntop(socket.AF_INET, body[16:20])}"
    if kind == ARP:
        return f"arp {socket.inet_ntop(socket.AF_INET, body[24:28])}"
    if kind != IPV6:
        return f"ethertype {kind:#x}"
    protocol, rest = body[6], body[40:]
    if protocol == 0:  # hop-by-hop options before the header proper
        protocol, rest = rest[0], rest[8 + rest[1] * 8 :]
    if protocol == socket.IPPROTO_ICMPV6 and rest[0] in LINK_TALK:
        return None
    return f"{_protocol(protocol)} {socket.inet_ntop(socket.AF_INET6, body[24:40])}"


def _protocol(number: int) -> str:
    return {6: "tcp", 17: "udp", 1: "icmp", 58: "icmp"}.get(number, f"protocol {number}")
