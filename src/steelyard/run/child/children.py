"""Hand one piece of work to a child process, pass its progress on, and take its result or its error."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...artefact import Artefact, Draft, Figures, Progress, Watch
from ...cluster import Services
from ...errors import Lacking, Problem, Stopped, Where, tells_no_memory
from ...lines import each_line_of_pipe
from ...processes import memory_limit_bytes
from ...units import show_bytes
from .again import KilledForMemory, Patience, end_hung, oom_kills, until_done
from .yielding import Yielding

GRACE_S = 4.0  # Ctrl-C is answered in under 5 s: a child that has not stopped by then is killed
OUTPUT_BYTES = 16384  # of a child's own words, the last of them
TAIL_S = 1.0
# Nothing is fetched; threads that wait for each other soon sleep, or two runs on the same cores crawl.
CHILD_ENV = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "GOMP_SPINCOUNT": "1000"}


class WorkerFailed(Exception):
    """The child met a bug of ours; carries its trace."""

    def __init__(self, trace: str) -> None:
        super().__init__(trace.rsplit("\n", 1)[-1])
        self.trace = trace


def in_child(
    order: dict[str, Any], watch: Watch, patience: Patience | None = None, yields_to: Services | None = None
) -> Any:
    """Carry out one order (see worker.py) in a child. Raises the child's Problem, or WorkerFailed; with
    `patience` Hung. It stands still while one of the services that it `yields_to` answers.

    What it writes to standard output and error stands in the run's log, the last of it where it is long.
    """
    kills = oom_kills()
    reading, writing = os.pipe()
    output, words = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-m", "steelyard.run.child.worker", str(writing)],
        stdin=subprocess.PIPE,
        stdout=words,
        stderr=words,
        pass_fds=(writing,),
        start_new_session=True,
        env=os.environ | CHILD_ENV,
    )
    os.close(writing)
    os.close(words)
    tail = Tail(output)
    try:
        assert child.stdin is not None
        with suppress(BrokenPipeError):  # it died at once: its output says why
            child.stdin.write(json.dumps(order | {"parent": os.getpid()}).encode())
            child.stdin.close()
        last = follow(child, reading, watch, patience, yields_to)
        child.wait()
        if child.returncode == -signal.SIGKILL and not last and kills != oom_kills() and not watch.stop:
            raise step_out_of_memory(KilledForMemory)
        return result(last, child.returncode, order["call"], tail.text(), watch)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        os.close(reading)
        log_output(watch, order["call"], child.returncode, tail.text())


class Tail(threading.Thread):
    """Reads a pipe to its end and keeps the last of it: in memory, since it may quote a secret."""

    def __init__(self, fd: int) -> None:
        super().__init__(daemon=True)
        self.fd, self.data = fd, b""
        self.start()

    def run(self) -> None:
        with suppress(OSError), open(self.fd, "rb", buffering=0) as pipe:
            while piece := pipe.read(1 << 16):
                self.data = (self.data + piece)[-OUTPUT_BYTES:]

    def text(self) -> str:
        """What came, once the writer has ended; a grandchild that holds the pipe open is not waited for."""
        self.join(TAIL_S)
        return self.data.decode("utf-8", "replace").strip()


def log_output(watch: Watch, call: str, code: int | None, text: str) -> None:
    """Into the run's log alone, which is sealed where the run is."""
    if text:
        watch.write("child.output", call=call, exit=code, output=text)


def follow(
    child: subprocess.Popen[bytes],
    reading: int,
    watch: Watch,
    patience: Patience | None,
    yields_to: Services | None = None,
) -> dict[str, Any]:
    """Pass on what the child says until it ends; its last word is the result."""
    if yields_to is None:
        return passed_on(messages(child, reading, lambda: watch.stop, patience), watch, patience)
    yielding = Yielding(child.pid, yields_to, watch)
    try:
        heard = messages(child, reading, lambda: watch.stop, patience, yielding)
        return passed_on(heard, watch, patience)
    finally:
        yielding.end()


def passed_on(heard: Iterator[dict[str, Any]], watch: Watch, patience: Patience | None) -> dict[str, Any]:
    bars: dict[str, Progress] = {}
    last: dict[str, Any] = {}
    for message in heard:
        if patience:
            patience.hear(message)
        if "log" in message:
            watch.log(message["log"], **message["fields"])
        elif "progress" in message:
            name = message["progress"]
            bar = bars.setdefault(name, Progress(watch, name, message["total"], message["unit"]))
            bar.done, bar.fields, bar.total = message["done"], message["fields"], message["total"]
            watch.show(bar, closed=message["closed"])
            if message["closed"]:
                bars.pop(name)
        else:
            last = message
    return last


def messages(
    child: subprocess.Popen[bytes],
    reading: int,
    stop: Callable[[], bool],
    patience: Patience | None = None,
    yielding: Yielding | None = None,
) -> Iterator[dict[str, Any]]:
    """JSON lines from the child; on `stop` it is asked to end, and killed when it does not."""
    stopped_at = 0.0

    def tick() -> None:
        nonlocal stopped_at
        if stop() and not stopped_at:
            if yielding:
                yielding.end()  # one that stands still would not hear it
            child.send_signal(signal.SIGTERM)
            stopped_at = time.monotonic()
        if stopped_at and time.monotonic() - stopped_at > GRACE_S:
            child.kill()
        if yielding and yielding.stands_still:
            yielding.tell(time.monotonic())
            return  # its silence is none of its own
        if patience and patience.tick(time.monotonic()) and not stopped_at:
            end_hung(child, patience)

    return map(json.loads, each_line_of_pipe(reading, tick))


def result(last: dict[str, Any], code: int, call: str, words: str, watch: Watch) -> Any:
    if "done" in last:
        return last["done"]
    if last.get("error"):
        raise Problem.from_json(last["error"], last["exit_code"], last["resumable"])
    if watch.stop:
        raise Stopped("run.stopped", "stopped before the step was done", hint="run the same command again")
    silent = code < 0 or not last.get("trace")  # it ended without a word of its own
    if code == -signal.SIGKILL or tells_no_memory(words) or (silent and memory_limit_bytes()):
        raise step_out_of_memory()
    if code < 0:
        raise ended_by_signal(code, call, watch)
    raise WorkerFailed(last.get("trace") or f"the child ended with {code} and said nothing")


SIGNALS = {
    signal.SIGILL: "a library uses an instruction that this CPU does not have",
    signal.SIGBUS: "memory that was promised was not there: most often /dev/shm or a disk is full",
    signal.SIGSEGV: "a library touched memory that is not its own",
    signal.SIGABRT: "a library gave up by itself",
}


def ended_by_signal(code: int, call: str, watch: Watch) -> Problem:
    """A library or the system ended the process: by which signal, and where its last words stand."""
    number = signal.Signals(-code) if -code in set(signal.Signals) else None
    name = number.name if number else f"signal {-code}"
    log = watch.log_file
    return Problem(
        "step.signal",
        f"the process of {call} was ended by {name}",
        where=Where(str(log) if log else None),
        why=SIGNALS.get(number) if number else None,
        hint=f"its last output stands in {log or 'the log'} under child.output: see `steelyard logs`",
    )


def step_out_of_memory(kind: type[Lacking] = Lacking) -> Lacking:
    """The problem of a step that was killed, or could get no memory."""
    limit = memory_limit_bytes()
    allowed = f", and `ulimit -v` allows {show_bytes(limit)}" if limit else ""
    return kind(
        "memory.exhausted",
        "the step's process ran out of memory",
        why=f"it was killed by the system, or an allocation failed{allowed}",
        hint="free memory, or lower per_device_train_batch_size or max_length, and run again",
    )


def step_order(
    call: str,
    inputs: dict[str, Artefact],
    draft: Draft,
    store: Path,
    keys: tuple[Any, ...] | None,
    others: str = "",
) -> dict[str, Any]:
    """The order that runs one step into a draft; `others`: the call that lends it the processes of hosts."""
    return {
        "call": call,
        "others": others,
        "store": str(store),
        "keys": keys,
        "settings": draft.settings,
        "inputs": {
            role: {
                "folder": str(a.folder),
                "adopted": "key" not in a.manifest,
                "hash": a.hash,
                "kind": a.kind,
            }
            for role, a in inputs.items()
        },
        "draft": {
            "kind": draft.kind,
            "key": draft.key,
            "step": draft.step,
            "folder": str(draft.folder),
            "scratch": str(draft.scratch.folder),
        },
    }


def call_order(call: str, **arguments: Any) -> dict[str, Any]:
    """The order that calls a plain function of a room: "training:probe", limit_s=20."""
    return {"call": call, "arguments": arguments}


def run_step(
    call: str,
    inputs: dict[str, Artefact],
    draft: Draft,
    store: Path,
    keys: tuple[Any, ...] | None,
    watch: Watch,
    resumes: bool = False,
    yields_to: Services | None = None,
    others: str = "",
) -> Figures:
    """A step that `resumes` is started again where it got no memory, or stood still."""
    order = step_order(call, inputs, draft, store, keys, others)
    if not resumes:
        return in_child(order, watch, yields_to=yields_to)
    return until_done(lambda patience: in_child(order, watch, patience, yields_to), draft.scratch, watch)
