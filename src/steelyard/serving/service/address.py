"""Where a service listens, and what its clients call that."""

from __future__ import annotations

import socket

from ..base.access import is_loopback

WILDCARDS = {
    "0.0.0.0": "192.0.2.1",
    "::": "2001:db8::1",
}  # all addresses; and one of nobody's (RFC 5737, 3849)


def outward_address(host: str) -> str | None:
    """By which other machines reach this one, where `host` stands for all its addresses. Nothing is sent."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((WILDCARDS[host], 9))  # of a datagram socket: only a look at the routes
            return str(probe.getsockname()[0])
    except OSError:
        return None


def local_url(listening: socket.socket, tls: bool = False) -> str:
    """For programs on this machine."""
    host, port = listening.getsockname()[:2]
    return _url({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port, tls)


def url_of(listening: socket.socket, tls: bool = False, names: tuple[str, ...] = ()) -> str:
    """For clients on other machines too, where they can reach it; `names`: those it answers under."""
    host, port = listening.getsockname()[:2]
    if host in WILDCARDS:
        host = next(iter(names), None) or outward_address(host) or socket.gethostname()
    elif names and not is_loopback(host):
        host = names[0]
    return _url(host, port, tls)


def _url(host: str, port: int, tls: bool) -> str:
    kind = "https" if tls else "http"
    return f"{kind}://[{host}]:{port}" if ":" in host else f"{kind}://{host}:{port}"
