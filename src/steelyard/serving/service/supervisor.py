"""What systemd is told of this process (sd_notify(3)): ready, alive, ending. Nobody is told without it.

Datagrams to the Unix socket that NOTIFY_SOCKET names; a name that begins with @ is an abstract one.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress


class Supervisor:
    """Takes its words out of the environment, so that no child speaks for this process."""

    def __init__(self) -> None:
        self.address = os.environ.pop("NOTIFY_SOCKET", "")
        limit_us, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
        own = pid in ("", str(os.getpid()))
        self.watchdog_s = int(limit_us) / 1e6 if limit_us.isdecimal() and own else None

    def tell(self, *words: str) -> None:
        """READY=1, STOPPING=1, STATUS=..., together."""
        if not self.address:
            return
        address = "\0" + self.address[1:] if self.address[0] == "@" else self.address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
            to.sendto("\n".join(words).encode(), address)

    async def stay_alive(self) -> None:
        """As long as the event loop has its turns; engines are watched by the front itself."""
        while self.watchdog_s:
            self.tell("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_s / 3)
