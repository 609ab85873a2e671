"""Read a service's counters, wait for what must come, hold its engines still until it has."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from contextlib import contextmanager, suppress

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

CLIENT = httpx.Client(timeout=240)  # a new one for each question costs 80 ms


def until(true, limit_s=60.0):
    end = time.monotonic() + limit_s
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return true()


def awaited(read, wanted, timeout_s: float = 60.0):
    """What `read` gives once `wanted` holds of it."""
    end = time.monotonic() + timeout_s
    while not wanted(found := read()):
        assert time.monotonic() < end, found
        time.sleep(0.05)
    return found


def read_metrics(service, key=None):
    """Sums of /metrics by name, whatever the labels."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    found = {}
    for family in text_string_to_metric_families(CLIENT.get(f"{service.url}/metrics", headers=headers).text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


@contextmanager
def held(service):
    """Its engines make nothing meanwhile; its front end still takes, queues, counts and refuses."""
    for pid in service.engine_pids:
        os.kill(pid, signal.SIGSTOP)
        assert until(lambda pid=pid: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    try:
        yield
    finally:
        for pid in service.engine_pids:
            with suppress(ProcessLookupError):  # killed meanwhile
                os.kill(pid, signal.SIGCONT)


def in_steps(service, done):
    """A held engine goes on for 10 ms at a time until `done()`, and stands still again."""
    while not done():
        os.kill(service.engine_pid, signal.SIGCONT)
        time.sleep(0.01)
        os.kill(service.engine_pid, signal.SIGSTOP)


STALL_S = 0.3


class Awake:
    """Whether this process ran all the while. An engine of tiny steps on every core keeps some kernels from
    running anybody else for seconds: answers that came one after the other are then found all at once."""

    def __enter__(self):
        self.longest_s, self.ended = 0.0, threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        last = time.monotonic()
        while not self.ended.wait(0.01):
            now = time.monotonic()
            self.longest_s, last = max(self.longest_s, now - last), now

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()


def seen(what, wanted, tries=8):
    """Whether `wanted` holds of what `what()` gives. Where not, and this process stood still, an order
    could not be seen: once more."""
    for _ in range(tries):
        with Awake() as awake:
            found = what()
        if wanted(found):
            return True
        assert awake.longest_s > STALL_S, found
    return pytest.skip(f"this process stood still {tries} times while answers came")


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
