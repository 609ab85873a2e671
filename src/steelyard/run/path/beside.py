"""A command of one's own that gives way to the services of this machine: `python -m ... COMMAND...`.

It runs in a group of its own and stands still while a service answers (child/yielding.py). SIGTERM is handed
on; it dies with this process; the exit code is its own, 128 and the number for a signal.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from contextlib import suppress

from ...artefact import Watch
from ..child.yielding import Yielding
from ..known import service_sockets

NO_START = 127


def main(command: list[str]) -> int:
    held = [int(name) for name in os.listdir("/proc/self/fd") if int(name) > 2]  # the lock of its job
    try:
        child = subprocess.Popen(
            command, start_new_session=True, preexec_fn=_die_with_parent, pass_fds=_open(held)
        )
    except OSError as error:
        print(f"{error.strerror}: {error.filename}", file=sys.stderr)
        return NO_START
    yielding = Yielding(child.pid, service_sockets, Watch())

    def hand_on(number: int, _: object) -> None:
        yielding.end()  # one that stands still would not hear it
        with suppress(ProcessLookupError):
            os.kill(child.pid, number)  # send_signal could reap it, and the wait below would miss its end

    signal.signal(signal.SIGTERM, hand_on)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    yielding.end()  # before the group's number is free
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # and the child's
    code = child.wait()
    return code if code >= 0 else 128 - code


def _open(numbers: list[int]) -> tuple[int, ...]:
    """Those that are still open: the list of them was one itself."""
    found = []
    for number in numbers:
        try:
            os.fstat(number)
            found.append(number)
        except OSError:
            continue
    return tuple(found)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
