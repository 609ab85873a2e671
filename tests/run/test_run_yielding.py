"""A step stands still while a service answers, goes on afterwards, and computes the same."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from steelyard.errors import Stopped
from steelyard.run.child import again, yielding
from steelyard.run.child.children import run_step
from steelyard.run.child.yielding import CALM_S, Event, Tide, step
from steelyard.run.path import beside

SETTINGS = {"max_steps": 600, "dtype": "f32", "engine": "own"}
linux = pytest.mark.skipif(sys.platform != "linux", reason="process groups and /proc of Linux")


# ------------------------------------------------------------------ the rule


events = st.lists(
    st.tuples(st.floats(0.001, 0.2), st.sampled_from(["", "a", "b"]), st.booleans()), max_size=60
)


@given(events)
def test_it_stands_still_while_anyone_is_busy_and_goes_on_when_all_are_calm(drawn):
    tide, at, busy, calm_since = Tide(), 0.0, set(), 0.0
    for wait_s, service, is_busy in drawn:
        at += wait_s
        before = set(busy)
        if service:
            (busy.add if is_busy else busy.discard)(service)
        if before and not busy:
            calm_since = at
        was = tide
        tide, decision = step(tide, Event(at, service, is_busy))
        assert tide.busy == busy
        if busy:
            assert tide.paused
            assert decision == (None if was.paused else "pause")
        elif was.paused:
            assert (decision == "resume") == (at - calm_since >= CALM_S)
        else:
            assert decision is None
        assert tide.paused == {"pause": True, "resume": False, None: was.paused}[decision]


# ------------------------------------------------------------------ a real process


class Service:
    """A control socket that says what a service would say."""

    def __init__(self, folder: Path) -> None:
        self.path, self.busy = str(folder / "control"), False
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(self.path)
        self.listening.listen()
        self.followers: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # until `die`
            while True:
                connection, _ = self.listening.accept()
                connection.recv(4096)
                self.followers.append(connection)
                self.say(self.busy)

    def say(self, busy: bool) -> None:
        self.busy = busy
        for follower in self.followers:
            follower.sendall(b'{"busy":true}\n' if busy else b'{"busy":false}\n')

    def die(self) -> None:
        for open_one in (self.listening, *self.followers):
            with suppress(OSError):
                open_one.shutdown(socket.SHUT_RDWR)
            open_one.close()


@pytest.fixture
def service():
    with tempfile.TemporaryDirectory() as folder:
        made = Service(Path(folder))
        yield made
        made.die()


def worker() -> psutil.Process | None:
    for child in psutil.Process().children():
        with suppress(psutil.ZombieProcess):  # a service of an earlier test that nobody has waited for
            if "steelyard.run.child.worker" in child.cmdline():
                return child
    return None


def until(wanted, seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if wanted():
            return True
        time.sleep(0.01)
    return False


class Training(threading.Thread):
    """A training in a child, in a thread of this process."""

    def __init__(self, root, base, data, services=None, **more) -> None:
        super().__init__(daemon=True)
        self.watch, self.error = tiny.Listening(), None
        self.inputs, settings, self.draft = tiny.step(root, base, data, **SETTINGS | more)
        self.draft.settings = settings
        self.store, self.services = root / "store", services

    def run(self) -> None:
        try:
            run_step(
                "training:train", self.inputs.artefacts, self.draft, self.store, None, self.watch,
                resumes=True, yields_to=self.services,
            )  # fmt: skip
        except BaseException as error:
            self.error = error

    def bytes(self) -> dict[str, bytes]:
        self.join()
        assert self.error is None, self.error
        return {file.name: file.read_bytes() for file in self.draft.folder.glob("*.safetensors")}

    def stands_still(self) -> bool:
        process = worker()
        return process is not None and process.status() == psutil.STATUS_STOPPED


@linux
def test_a_training_that_gave_way_ends_with_the_same_bytes(base, data, tmp_path, service, monkeypatch):
    monkeypatch.setattr(yielding, "LONG_S", 0.1)
    monkeypatch.setattr(again, "LEAST_S", 5.0)
    alone = Training(tmp_path / "alone", base, data)
    alone.start()
    assert alone.bytes()
    beside = Training(tmp_path / "beside", base, data, lambda: [service.path])
    service.say(True)
    beside.start()
    assert until(beside.stands_still)
    assert until(lambda: beside.watch.of("step.waits"))
    service.say(False)
    assert until(lambda: beside.watch.of("train.planned") and not beside.stands_still())
    service.say(True)
    time.sleep(6)  # longer than a training may be silent by itself
    for _ in range(3):
        service.say(False)
        assert until(lambda: not beside.stands_still())
        service.say(True)
        assert until(lambda: beside.stands_still() or not beside.is_alive())
    service.say(False)
    assert beside.bytes() == alone.bytes()
    (told,) = beside.watch.of("step.yielded")
    assert told["times"] >= 2
    assert beside.watch.of("step.waits") == [{"services": 1}]
    assert not beside.watch.of("train.hung")


@linux
def test_a_service_that_is_gone_holds_nobody_up(base, data, tmp_path, service):
    service.say(True)
    beside = Training(tmp_path, base, data, lambda: [service.path])
    beside.start()
    assert until(beside.stands_still)
    service.die()
    beside.join()
    assert beside.error is None


@linux
def test_a_run_that_is_stopped_while_it_stands_still_ends(base, data, tmp_path, service):
    service.say(True)
    beside = Training(tmp_path, base, data, lambda: [service.path], max_steps=5000)
    beside.start()
    assert until(beside.stands_still)
    beside.watch.stop = True
    beside.join(30)
    assert isinstance(beside.error, Stopped)
    assert worker() is None


@linux
def test_a_command_of_ones_own_gives_way_and_its_end_is_handed_on(service, tmp_path, monkeypatch):
    monkeypatch.setattr(beside, "service_sockets", lambda: [service.path])
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this is a thread
    ticks, ends = tmp_path / "ticks", []
    count = "import time\nfor n in range(999):\n open('ticks', 'a').write('.'); time.sleep(0.01)"
    monkeypatch.chdir(tmp_path)
    main = threading.Thread(target=lambda: ends.append(beside.main([sys.executable, "-c", count])))
    main.start()
    assert until(ticks.exists)
    child = psutil.Process().children()[-1]
    service.say(True)
    assert until(lambda: child.status() == psutil.STATUS_STOPPED)
    before = ticks.stat().st_size
    time.sleep(0.2)
    assert ticks.stat().st_size == before
    service.say(False)
    assert until(lambda: ticks.stat().st_size > before)
    child.kill()
    main.join()
    assert ends == [128 + signal.SIGKILL]
    assert beside.main(["/no/such/command"]) == 127


@linux
def test_an_end_that_is_handed_on_to_a_command_that_has_just_ended(monkeypatch):
    handlers, wait = {}, os.waitid
    monkeypatch.setattr(beside, "service_sockets", list)
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)

    def interrupted(*words):
        ended = wait(*words)
        handlers[signal.SIGTERM](signal.SIGTERM, None)  # before the wait has come back: it begins anew
        return wait(*words) if ended else None

    monkeypatch.setattr(os, "waitid", interrupted)
    assert beside.main([sys.executable, "-c", "raise SystemExit(7)"]) == 7
    assert handlers[signal.SIGTERM] == signal.SIG_IGN
