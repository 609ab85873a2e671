"""A service as its starter sees it: start a candidate, publish it, find it again, stop it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from ...errors import Lacking, Problem
from ...processes import JOB, REPORT
from ...trust import trusting
from ..host.settings import ServeSettings, check_host
from .state import FILE, STOP_S, lives, read_state

CONTROL_S = 10.0
SIGNALS_APART_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A running service. `load`: seconds and bytes of the engine's start."""

    url: str
    pid: int
    control: str
    started_at: float
    engine_pid: int | None = None
    engine_pids: tuple[int, ...] = ()  # one each replica, as started; a restart changes them (see /metrics)
    load: dict[str, float] = field(default_factory=dict)
    fingerprint: str | None = None
    drain_s: float = 1.0  # what is under way has so long after SIGTERM
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False, compare=False)

    def alive(self) -> bool:
        if self.process is not None:
            return self.process.poll() is None
        return lives(self.pid, self.started_at)

    def healthy(self, api_key: str | None = None, timeout_s: float = 30.0) -> bool:
        """Whether it has made a token just now."""
        import httpx

        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        with suppress(httpx.HTTPError):
            trusted = trusting(self.url)
            answer = httpx.get(f"{self.url}/health", headers=headers, timeout=timeout_s, verify=trusted)
            return answer.status_code == 200
        return False

    def pids(self) -> list[int]:
        """The front end and its engine: what counts into the service's memory."""
        import psutil

        with suppress(psutil.Error):
            front = psutil.Process(self.pid)
            return [front.pid, *(child.pid for child in front.children(recursive=True))]
        return []

    def stop(self, successor: bool = False, now: bool = False) -> None:
        """End it and all its processes, within 5 s once it has drained; by force where it does not end.

        With a `successor` on its port it listens no longer while it drains; `now`: it does not drain.
        """
        if not self.alive():
            return
        told = successor and self._told_to_end()
        end_process(self.pid, self.alive, 0.0 if now else self.drain_s, now, told)
        if self.process is not None:
            self.process.wait()

    def _told_to_end(self) -> bool:
        """Whether it has begun to; otherwise it wants a signal."""
        with suppress(OSError):
            try:
                self._ask({"op": "end"})
                return True
            except Problem:  # of a version that knows two orders for it
                with suppress(Problem):
                    self._ask({"op": "hand_over"})
        return False

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """One order over the control socket. Raises OSError, Problem."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
            control.settimeout(CONTROL_S)
            control.connect(self.control)
            control.sendall(orjson.dumps(order) + b"\n")
            message: dict[str, Any] | None = orjson.loads(control.makefile("rb").readline() or b"null")
        if message is None or "error" in message:
            raise _problem(message)
        return message


def end_process(
    pid: int, alive: Callable[[], bool], drain_s: float, now: bool = False, told: bool = False
) -> None:
    """SIGTERM, twice for `now`; SIGKILL where it does not end in time. Its engines go with it.

    `told`: it has begun to end, and would take a signal for the second one."""
    with suppress(ProcessLookupError):
        if not told:
            os.kill(pid, signal.SIGTERM)
        if now:
            time.sleep(SIGNALS_APART_S)  # two at once are one
            os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + drain_s + STOP_S
        while alive() and time.monotonic() < end:
            time.sleep(0.02)
        if alive():
            os.kill(pid, signal.SIGKILL)


def start(
    folder: Path,
    settings: ServeSettings,
    *,
    die_with_parent: bool = True,
    log: Path | int | None = None,
) -> Service:
    """A candidate on a free loopback port, healthy when this returns. `folder`: an engine's own.

    `log` is a file to append to (or a descriptor); without one the service's log goes nowhere.
    With `die_with_parent` it ends with the calling THREAD until it is promoted: call from a lasting one.
    Raises Lacking where the engine cannot load it, Refused for an open address without a key.
    """
    check_host(settings.host, settings.api_key, settings.keys)
    settings.access(settings.host)
    stderr = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if isinstance(log, Path) else log
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.front"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if stderr is None else stderr,
            start_new_session=True,
            env={
                name: value for name, value in os.environ.items() if name not in (JOB, REPORT)
            },  # no part of it
        )
    finally:
        if isinstance(log, Path) and stderr is not None:
            os.close(stderr)
    parent = os.getpid() if die_with_parent else 0
    order = {"folder": str(Path(folder).resolve()), "settings": settings.as_json(), "parent": parent}
    return _await_ready(process, order)


def _await_ready(process: subprocess.Popen[bytes], order: dict[str, Any]) -> Service:
    assert process.stdin and process.stdout
    try:
        with suppress(BrokenPipeError):
            process.stdin.write(orjson.dumps(order) + b"\n")
            process.stdin.close()
        line = process.stdout.readline()
        process.stdout.close()
    except BaseException:  # Ctrl-C while it loads must not leave it behind
        process.kill()
        process.wait()
        raise
    message = orjson.loads(line) if line else None
    if message is None or "error" in message:
        process.wait()
        raise _problem(message)
    return _service(message, process)


def _problem(message: dict[str, Any] | None) -> Problem:
    if message is None:
        return Lacking(
            "serve.died", "the service ended before it was ready", hint="see its log; is there memory enough?"
        )
    return Problem.from_json(message, message["exit_code"])


def _service(message: dict[str, Any], process: subprocess.Popen[bytes] | None) -> Service:
    import psutil

    return Service(
        url=message["url"],
        pid=message["pid"],
        control=message["control"],
        started_at=message.get("started_at") or psutil.Process(message["pid"]).create_time(),
        engine_pid=message.get("engine_pid"),
        engine_pids=tuple(message.get("engine_pids") or ()),
        load=message.get("load") or {},
        fingerprint=message.get("fingerprint"),
        drain_s=message.get("drain_s", 1.0),
        process=process,
    )


def promote(
    service: Service,
    host: str,
    port: int,
    state_folder: Path | None = None,
    after: Service | None = None,
    verdict: str | None = None,
) -> Service:
    """The same process, now also on `host:port`, living on without its starter.

    With `state_folder` it writes service.json there. `after` is the older service whose place it takes. On
    the same port both listen until that one is stopped, so that no client is turned away; where nobody stops
    it, its successor does. `verdict`: hash of the gate's that it passed. Raises Lacking (serve.port_taken),
    Refused: it is then no more than it was.
    """
    order: dict[str, Any] = {"op": "promote", "host": host, "port": port}
    if verdict is not None:
        order["verdict"] = verdict
    if after is not None:
        names = ("pid", "started_at", "control", "drain_s")
        order["after"] = {name: getattr(after, name) for name in names}
        order["after"]["shares"] = urlsplit(after.url).port == port
    if state_folder is not None:
        order["state_folder"] = str(Path(state_folder).resolve())
    message = service._ask(order)
    return replace(service, url=message["url"])


def shadow(candidate: Service, order: dict[str, Any]) -> None:
    """Let a candidate answer copies of another service's requests, living on without its starter.

    `order`: as rolling/canary.py has it. Raises Lacking where it has ended.
    """
    candidate._ask({"op": "canary", "order": order})


def find(folder: Path, name: str = FILE) -> Service | None:
    """The service that was published from this run folder, if it still lives; `name`: of its file."""
    state = read_state(Path(folder), name)
    return _service(state, None) if state else None


def check_port(host: str, port: int) -> None:
    """Raises Lacking (serve.port_taken) where `promote` could not listen there."""
    from .front import bind

    bind(host, port).close()
