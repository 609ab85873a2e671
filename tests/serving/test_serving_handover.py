"""One service takes over from another: no client is turned away, and a failure leaves the older one alone."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psutil
import pytest
from watching import free_port, until

from steelyard.errors import Lacking
from steelyard.serving import ServeSettings, check_port, find, promote, start


class Asking(threading.Thread):
    """Asks again and again, each time on a new connection, and keeps what went wrong."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url, self.over, self.asked, self.failed = url, threading.Event(), 0, []

    def run(self) -> None:
        while not self.over.is_set():
            try:
                httpx.get(f"{self.url}/live", timeout=120).raise_for_status()
            except httpx.HTTPError as error:
                self.failed.append(repr(error))
            self.asked += 1


@contextmanager
def asking(url: str) -> Iterator[Asking]:
    thread = Asking(url)
    thread.start()
    yield thread
    thread.over.set()
    thread.join()


def _frozen(pid: int) -> None:
    """It takes nobody in: who has come to its line waits for whoever does."""
    os.kill(pid, signal.SIGSTOP)
    assert until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)


def test_the_older_service_lives_until_the_new_one_answers(tiny_ir, tmp_path):
    port = free_port()
    older = promote(start(tiny_ir, ServeSettings()), "127.0.0.1", port, tmp_path)
    candidate = start(tiny_ir, ServeSettings())
    try:
        with pytest.raises(Lacking) as caught:
            check_port("127.0.0.1", port)
        assert caught.value.code == "serve.port_taken", "a stranger finds the port taken"
        with pytest.raises(Lacking):
            promote(candidate, "127.0.0.1", port, tmp_path / "other")
        assert older.healthy() and find(tmp_path).pid == older.pid
        with asking(older.url) as client:
            newer = promote(candidate, "127.0.0.1", port, tmp_path, after=older)
            _frozen(older.pid)
            assert all(httpx.get(f"{newer.url}/live", timeout=120).is_success for _ in range(12))
            os.kill(older.pid, signal.SIGCONT)
            older.stop(successor=True)
            before = client.asked
            while client.asked < before + 20:
                time.sleep(0.01)
        assert client.failed == []
        assert newer.url == older.url and find(tmp_path).pid == candidate.pid
        assert newer.healthy() and not older.alive()
    finally:
        older.stop()
        candidate.stop()


def test_a_failed_promotion_leaves_the_older_service_as_it_was(tiny_ir, tmp_path):
    older = promote(start(tiny_ir, ServeSettings()), "127.0.0.1", free_port(), tmp_path)
    candidate = start(tiny_ir, ServeSettings())
    try:
        with socket.socket() as stranger:
            stranger.bind(("127.0.0.1", 0))
            stranger.listen()
            with pytest.raises(Lacking):
                promote(candidate, "127.0.0.1", stranger.getsockname()[1], tmp_path, after=older)
        assert older.healthy() and find(tmp_path).url == older.url
    finally:
        candidate.stop()
        older.stop()


def test_who_cannot_be_written_down_is_no_more_than_a_candidate(tiny_ir, tmp_path):
    """A disk that is full: before, it listened beside the older service, and nobody could find it."""
    port = free_port()
    older = promote(start(tiny_ir, ServeSettings()), "127.0.0.1", port)
    candidate = start(tiny_ir, ServeSettings())
    (tmp_path / "two" / "service.json" / "in the way").mkdir(parents=True)
    try:
        with pytest.raises(Lacking):
            promote(candidate, "127.0.0.1", port, tmp_path / "two", after=older)
        _frozen(candidate.pid)
        assert all(httpx.get(f"{older.url}/live", timeout=20).is_success for _ in range(12))
        os.kill(candidate.pid, signal.SIGCONT)
        assert candidate.healthy(), "it can be tried again"
    finally:
        candidate.stop()
        older.stop()


def test_whose_successor_goes_again_is_found_again(tiny_ir, tmp_path):
    older = promote(start(tiny_ir, ServeSettings()), "127.0.0.1", free_port(), tmp_path)
    newer = start(tiny_ir, ServeSettings())
    try:
        newer = promote(newer, "127.0.0.1", int(older.url.rpartition(":")[2]), tmp_path, after=older)
        assert find(tmp_path).pid == newer.pid
        newer.stop()
        assert find(tmp_path).pid == older.pid and older.healthy()
    finally:
        newer.stop()
        older.stop()
    assert find(tmp_path) is None


def test_a_service_holds_its_folder_open(tiny_ir, tmp_path):
    """`gc` sees by it that an engine which starts again will need the folder."""
    from steelyard.run.garbage import paths_in_use

    folder = shutil.copytree(tiny_ir, tmp_path / "model")
    service = start(folder, ServeSettings())
    try:
        assert str(folder) in paths_in_use()
    finally:
        service.stop()
    assert str(folder) not in paths_in_use()
