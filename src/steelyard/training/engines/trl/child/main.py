"""The process: its parent, its signals, its last word."""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import signal
import sys
from pathlib import Path

from .group import leave
from .run import run
from .telling import Failed, Told

NO_MEMORY = (
    "out of memory",
    "allocate memory",
    "bad_alloc",
)  # how torch says it, of a device and of the host


def main() -> int:
    path, fd, parent = sys.argv[1:]
    die_with_parent(int(parent))
    tell, stop = Told(int(fd)), []
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # where it stands, on standard error
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    try:
        job = json.loads(Path(path).read_bytes())
        if "ask" in job:
            from .asking import ask

            ask(job["ask"], tell, stop)
        elif "ray" in job:
            from .cluster.driver import drive

            drive(job, tell, stop)
        else:
            run(job, tell, stop)
            leave()
        return 0
    except Failed as failure:
        tell(**failure.fields)
        return 1
    except MemoryError:
        tell(failed="memory")
        return 1
    except Exception as error:
        import traceback

        words = str(error).lower()
        memory = any(told in words for told in NO_MEMORY)
        frames = traceback.extract_tb(error.__traceback__)
        at = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
        tell(failed="memory" if memory else "error", kind=type(error).__name__, at=at)
        traceback.print_exc()
        return 1


def die_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)
