"""Tries grammars out, in a process of its own that a hostile one may freeze, bloat or end.

JSON lines over an inherited Unix socket, as in engine_child.py. In: settings (first line: `engine`, `folder`,
`cpu_s`, `memory_bytes`), then `{"grammar": [kind, text]}`. Out: `{"ready": true}`, and for each grammar
`{"why": what is wrong with it, or null, "bytes": what the compiled one holds}` or `{"over": "memory"}`. The
kernel ends the process by SIGPROF after `cpu_s` of computing over one grammar, and gives it no more than
`memory_bytes` on top of what it has; whatever ends it, who started it replaces it.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ....processes import die_with_parent, resident_bytes
from ...engines import TRIALS
from ...host.engine_child import Channel
from ...host.job import ANY_OBJECT

NICE = 10
MOST_WORDS = 2_000  # characters; some errors hold the whole grammar
STACK_BYTES = 4 * 2**20  # half of what the engine's thread has: what is not too deep here is not there


MALLINFO = (
    "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
)  # fmt: skip


class MallInfo(ctypes.Structure):
    """glibc's mallinfo2(3)."""

    _fields_ = [(name, ctypes.c_size_t) for name in MALLINFO]


def main() -> None:
    die_with_parent(int(sys.argv[2]))
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):
        os.nice(NICE)
    messages: list[dict[str, Any]] = []
    while not messages and not channel.closed:
        messages = channel.receive(60)
    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=serve, args=(channel, messages[0]))
    thread.start()
    thread.join()


def serve(channel: Channel, settings: dict[str, Any]) -> None:
    try:
        trial = TRIALS[settings["engine"]]()(Path(settings["folder"]))
        trial(ANY_OBJECT)  # loads what the first one would wait for
    except Exception as e:  # whatever the native library raises goes to the front end as text
        channel.send({"failed": f"{type(e).__name__}: {e}"})
        return
    channel.send({"ready": True})
    while not channel.closed:
        for message in channel.receive(60):
            channel.send(tried(trial, tuple(message["grammar"]), settings))


def tried(
    trial: Callable[[tuple[str, str]], None], grammar: tuple[str, str], settings: dict[str, Any]
) -> dict[str, Any]:
    """What comes of one grammar within the limits, where it does not end the process."""
    limit_memory(settings["memory_bytes"])
    before = held_bytes()
    signal.setitimer(signal.ITIMER_PROF, settings["cpu_s"])  # counts all threads; what it sends ends us
    try:
        trial(grammar)
        why = None
    except MemoryError:
        return {"over": "memory"}
    except Exception as e:
        why = str(e) if isinstance(e, ValueError) else f"{type(e).__name__}: {e}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
    if why and "bad_alloc" in why:
        return {"over": "memory"}
    return {"why": why and why[:MOST_WORDS], "bytes": max(held_bytes() - before, 0)}


def limit_memory(more_bytes: int) -> None:
    """To so much on top of what this process has now. Linux counts what can be written (RLIMIT_DATA)."""
    with suppress(OSError, ValueError):
        status = Path("/proc/self/status").read_text("ascii", "replace")
        data_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData"))
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (data_kb * 1024 + more_bytes, hard))


def held_bytes() -> int:
    """What has been taken of the heap and not given back; elsewhere than under glibc, what is resident."""
    with suppress(AttributeError, OSError):
        mallinfo2 = ctypes.CDLL(None).mallinfo2
        mallinfo2.restype = MallInfo
        info = mallinfo2()
        return int(info.uordblks + info.hblkhd)
    return resident_bytes(os.getpid())


if __name__ == "__main__":
    main()
    os._exit(0)
