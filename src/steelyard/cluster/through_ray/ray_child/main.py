"""Connect to the cluster, and do what the parent asks for until it ends."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from .asking import Asking
from .frames import read_frame, write_frame
from .mapping import Mapping
from .nodes import Failed, RayNodes

DRIVERS: dict[str, Callable[..., Any]] = {"mapping": Mapping, "asking": Asking}


def main(head: str, parent: int, what: str) -> None:
    if os.getppid() != parent:
        return
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what Ray prints is no frame
    inbox: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
    threading.Thread(target=listen, args=(inbox,), daemon=True).start()

    def tell(kind: bytes, number: int, body: bytes) -> None:
        write_frame(out, kind, number, body)

    try:
        DRIVERS[what](RayNodes(head, tell), inbox, tell).run()
    except Failed as failed:
        tell(b"x", 0, json.dumps(failed.fields).encode())
    except BrokenPipeError:
        pass
    out.flush()
    os._exit(0)  # Ray's own end takes seconds


def listen(inbox: SimpleQueue[tuple[Any, ...]]) -> None:
    """What the parent sends; its end is ours."""
    while (frame := read_frame(sys.stdin.buffer)) is not None:
        inbox.put(("frame", *frame))
    os._exit(0)
