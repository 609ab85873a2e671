"""On one node: a process in steelyard's Python that gives its function what comes, one after another.

Frames on standard input and output: c (which code is asked for) -> c (what is here); f (the function) -> a;
i (an item) -> a (its answer) or e (what was raised). It ends with its input, and with its parent.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
from typing import Any

from ...artefact import code_of
from ...errors import trace_of
from ...processes import die_with_parent
from .ray_child.frames import read_frame, write_frame


def main() -> None:
    die_with_parent(os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no frame
    function: Any = None
    while (frame := read_frame(sys.stdin.buffer)) is not None:
        kind, number, body = frame
        try:
            if kind == b"c":
                answer = json.dumps(code_of(body.decode())).encode()
            elif kind == b"f":
                function, kind, answer = pickle.loads(body), b"a", b""
            else:
                kind, answer = b"a", pickle.dumps(function(pickle.loads(body)), pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            kind, answer = b"e", pickled(error)
        write_frame(answers, kind, number, answer)


def pickled(error: Exception) -> bytes:
    """The error, or where it was raised where it does not travel."""
    try:
        body = pickle.dumps(error)
        pickle.loads(body)
        return body
    except Exception:
        return pickle.dumps(trace_of(error))
