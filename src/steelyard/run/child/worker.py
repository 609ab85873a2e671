"""The child process of one step: `python -m steelyard.run.child.worker FD`, a JSON order on standard input.

Answers are JSON lines on the file descriptor FD: {"log"}, {"progress"}, at last {"done"} or {"error"}, which
says whether a fresh process can go on.
It dies with its parent, and SIGTERM asks the step to stop after its next safe point.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from ...artefact import Artefact, Draft, Inputs, Progress, Scratch, Store, Watch
from ...errors import Problem, Resumable, from_os_error, trace_of, writing_in
from ...processes import die_with_parent, lacks_memory
from ...trust import keys_of
from .children import step_out_of_memory
from .memory import SHORT_SAMPLE_S
from .reporting import report_event, report_progress


class PipeWatch(Watch):
    """Sends logs and progress to the parent."""

    def __init__(self, fd: int) -> None:
        self.file = os.fdopen(fd, "w", buffering=1, encoding="utf-8")

    def say(self, **message: Any) -> None:
        self.file.write(json.dumps(message, ensure_ascii=False) + "\n")

    def log(self, event: str, **fields: Any) -> None:
        report_event(event, fields)
        self.say(log=event, fields=fields)

    def show(self, progress: Progress, closed: bool = False) -> None:
        report_progress(progress.name, progress.done, progress.total, closed)
        self.say(
            progress=progress.name,
            total=progress.total,
            unit=progress.unit,
            done=progress.done,
            fields=progress.fields,
            closed=closed,
        )


def opened(order: dict[str, Any], store: Store) -> Artefact:
    """The artefact an order names: a folder of the store, or one adopted from elsewhere."""
    folder = Path(order["folder"])
    if order["adopted"]:
        return Artefact(folder, {"hash": order["hash"], "kind": order["kind"], "figures": {}, "files": []})
    return store.open(folder)


def carry_out(order: dict[str, Any], watch: Watch) -> Any:
    """Import what the order names, give it what it asks for, return its figures."""
    call = call_of(order["call"])
    if "draft" not in order:
        return call(**order["arguments"])
    keys = keys_of(order["keys"]) if order["keys"] else None
    store = Store(Path(order["store"]), keys)
    inputs = Inputs({role: opened(a, store) for role, a in order["inputs"].items()}, lent(order))
    words = order["draft"]
    scratch, folder = Scratch(Path(words["scratch"]), keys), Path(words["folder"])
    draft = Draft(words["kind"], words["key"], words["step"], order["settings"], [], folder, scratch)
    with writing_in(folder):
        figures = call(inputs, order["settings"], draft, watch)
    time.sleep(3 * SHORT_SAMPLE_S)  # a step of two tenths of a second would end before its peak was counted
    return figures


def call_of(name: str) -> Callable[..., Any]:
    """What "room:name" means; the room is imported now."""
    room, _, own = name.partition(":")
    call: Callable[..., Any] = getattr(import_module(f"steelyard.{room}"), own)
    return call


def lent(order: dict[str, Any]) -> dict[str, Callable[..., Any]]:
    """{"others"}: the processes of the hosts that the step's settings name; {} where they name none."""
    settings = order["settings"]
    if not order.get("others") or "ray" not in settings:
        return {}
    words = {"hosts": settings["hosts"], "field": "resources.hosts"}
    return {"others": partial(call_of(order["others"]), settings["ray"], order["call"], **words)}


def problem_of(error: Exception) -> Problem | None:
    """What a step's exception means to a user; None for a bug of ours."""
    if isinstance(error, Problem):
        return error
    if lacks_memory(error):
        print(trace_of(error), file=sys.stderr)  # into the run's log
        return step_out_of_memory()
    return from_os_error(error) if isinstance(error, OSError) else None


def main() -> int:
    watch = PipeWatch(int(sys.argv[1]))
    order = json.load(sys.stdin)
    die_with_parent(order["parent"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides; a terminal's Ctrl-C reaches it too

    faulthandler.register(signal.SIGUSR1, all_threads=True)  # on standard error, which stands in the log

    def stop(*_: object) -> None:
        watch.stop = True

    signal.signal(signal.SIGTERM, stop)
    try:
        watch.say(done=carry_out(order, watch))
        return 0
    except Exception as error:
        problem = problem_of(error)
        if problem is None:
            watch.say(error=None, exit_code=1, trace=trace_of(error))
            return 1
        resumable = isinstance(problem, Resumable)
        watch.say(error=problem.as_json(), exit_code=problem.exit_code, resumable=resumable)
        return problem.exit_code


if __name__ == "__main__":
    sys.exit(main())
