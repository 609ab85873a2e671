"""A command that switches the models is killed half-way, or the disk is full: what stands is whole."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest
from test_run_canary import CANARY, until
from test_run_canary import desk as canary_desk  # noqa: F401  (a fixture)
from test_run_rollback import desk as plain_desk  # noqa: F401
from test_run_rollback import served_model  # noqa: F401

from steelyard import run
from steelyard.run.record import promotions
from steelyard.run.record.promotions import publishing, read_promotions
from steelyard.serving import Service, find

KILLED = """
import os, signal
from steelyard import run
from steelyard.run.rolling import {module}
{module}.{at} = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
run.{call}
"""


def killed(**where: str) -> None:
    """kill -9 of a command at this call."""
    done = subprocess.run([sys.executable, "-c", KILLED.format(**where)], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr


def hashes(place) -> list[str]:
    return [one.hash for one in read_promotions(place)]


def test_a_promotion_that_was_cut_off_is_whole(canary_desk, monkeypatch):  # noqa: F811
    desk = canary_desk(CANARY.replace("requests: 20", "requests: 4000"))
    one, two = desk.made("a"), desk.made("b")
    desk.publish(one)
    older = find(desk.place.service)
    candidate = desk.publish(two)["canary"]["pid"]
    killed(module="canary", at="forget_canary", call="canary('desk', take=True)")
    service = find(desk.place.service)
    assert (service.pid, service.fingerprint) == (candidate, two.hash)
    assert hashes(desk.place) == [one.hash, two.hash], "what one can go back by"
    assert "canary" not in run.status(desk.place.folder)[0], "it is the service, and no candidate any more"
    run.canary("desk", take=True)
    assert find(desk.place.service).pid == candidate and service.alive()
    assert until(lambda: not older.alive()), "its successor ends it where nobody else does"
    stop = Service.stop

    def stopped(self, **how) -> None:
        with publishing(desk.place, wait_s=0.1):
            """Another may switch while it drains."""
        stop(self, **how)

    monkeypatch.setattr(Service, "stop", stopped)
    assert run.rollback("desk")["artefact"] == one.hash


def test_going_back_that_was_cut_off_goes_back_once(plain_desk, monkeypatch):  # noqa: F811
    desk = plain_desk
    first, one, two = desk.made("a"), desk.made("b"), desk.made("c")
    for model in (first, one, two):
        desk.publish(model)
    newer = find(desk.place.service)
    killed(module="rollback", at="forget_left", call="rollback('desk')")
    assert find(desk.place.service).fingerprint == one.hash and newer.alive()
    done = run.rollback("desk")
    assert (done["artefact"], done["before"]) == (one.hash, two.hash), "and no further"
    again = run.rollback("desk", leaving=two.hash)
    assert again["service"] == done["service"] and hashes(desk.place) == [first.hash, one.hash]
    assert until(lambda: not newer.alive())

    service = find(desk.place.service)
    full = OSError(errno.ENOSPC, "full")
    with monkeypatch.context() as patch:
        patch.setattr(promotions, "write_durably", lambda *_: (_ for _ in ()).throw(full))
        with pytest.raises(OSError):
            desk.publish(two)
    assert find(desk.place.service) == service and service.healthy()
    assert hashes(desk.place) == [first.hash, one.hash]
