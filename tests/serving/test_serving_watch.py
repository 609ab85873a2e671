"""Engines that hang while they load, and watchers that go on whatever happens. Children of a few lines."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import textwrap
import time
from typing import Any

import pytest

from steelyard.errors import Lacking
from steelyard.serving.engines import EngineSettings, Event
from steelyard.serving.host import engine_child, engine_process
from steelyard.serving.host.engine_process import EngineCrashed, EngineProcess, Silence

PYTHON = sys.executable
READY = 'send({"ready": {"load_s": 0.1}})'
CHILD = """
import json, os, socket, sys, time
channel = socket.socket(fileno=int(sys.argv[1]))
def send(message):
    channel.sendall(json.dumps(message).encode() + b"\\n")
first = not os.path.exists({mark!r})
open({mark!r}, "a").close()
channel.recv(1 << 16)
{lines}
"""


@pytest.fixture
def process(tmp_path, monkeypatch):
    """`process(lines)`: an engine whose child runs these; `first` says whether it is the first one."""
    made, logged = [], []

    def make(lines: str) -> EngineProcess:
        script = tmp_path / "child.py"
        script.write_text(CHILD.format(mark=str(tmp_path / "mark"), lines=textwrap.dedent(lines)))
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nexec {PYTHON} {script} "$3"\n')
        python.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(python))
        engine = EngineProcess(EngineSettings(folder=""), lambda event, **f: logged.append((event, f)))
        made.append(engine)
        engine.logged = logged
        return engine

    monkeypatch.setattr(engine_process, "TICK_S", 0.05)
    monkeypatch.setattr(engine_process, "BACKOFF_S", (0.01,))
    return make


async def ready_again(engine, restarts):
    async with asyncio.timeout(60):
        while engine.state != "ready" or engine.restarts < restarts:
            await asyncio.sleep(0.01)


def test_an_engine_that_hangs_while_it_loads_is_ended_with_the_reason(process, monkeypatch):
    monkeypatch.setattr(engine_process, "LOAD_HANG_S", 0.2)

    async def run():
        engine = process("time.sleep(600)")
        with pytest.raises(Lacking) as raised:
            await asyncio.wait_for(engine.start(), 60)
        assert "loading" in raised.value.why and engine.state == "closed"
        with pytest.raises(ProcessLookupError):
            os.kill(engine.pid, 0)

    asyncio.run(run())


def test_a_restart_that_hangs_while_it_loads_is_tried_again(process, tmp_path, monkeypatch):
    """Only the second child hangs; it says so in a file, since a busy machine makes any child slow."""
    hanging = tmp_path / "hanging"

    class Rule(Silence):
        def limit_s(self, pid, token):
            return 120.0 if hanging.exists() and not hanging.unlink() else None

    monkeypatch.setattr(engine_process, "Silence", Rule)

    async def run():
        engine = process(f"""
            import pathlib
            count = pathlib.Path(sys.argv[0] + ".count")
            number = int(count.read_text()) if count.exists() else 0
            count.write_text(str(number + 1))
            if number == 1:
                pathlib.Path({str(hanging)!r}).touch()
                time.sleep(600)
            {READY}
            if number == 0:
                sys.exit(1)
            time.sleep(600)
        """)
        await engine.start()
        await ready_again(engine, 2)
        await engine.close()
        events = [event for event, _ in engine.logged]
        assert events.count("engine.restart_failed") == 1 and events.count("engine.ready") == 2

    asyncio.run(run())


def test_a_message_that_nobody_understands_ends_the_engine_not_its_watcher(process):
    async def run():
        engine = process(f"""
            {READY}
            if first:
                send({{"events": 7}})
            time.sleep(600)
        """)
        await engine.start()
        await ready_again(engine, 1)
        await engine.close()
        assert any(
            event == "engine.lost" and "cannot be read" in fields["why"] for event, fields in engine.logged
        )

    asyncio.run(run())


def test_the_last_words_of_an_engine_that_ends_stand_in_the_log(process, tmp_path):
    """All of them go where its output is to go; nothing of it is lost where that is nowhere."""

    async def run():
        engine = process(f"""
            {READY}
            if first:
                print("it goes on for a while", flush=True)
                print("std::bad_cast: no such tensor", file=sys.stderr, flush=True)
                os._exit(3)
            time.sleep(600)
        """)
        output = tmp_path / "output"
        with output.open("wb") as file:
            engine.output = file.fileno()
            await engine.start()
            await ready_again(engine, 1)
            await engine.close()
        lost = [fields["why"] for event, fields in engine.logged if event == "engine.lost"]
        assert lost == ["the engine process ended: std::bad_cast: no such tensor"]
        assert output.read_text().startswith("it goes on for a while\nstd::bad_cast")

    asyncio.run(run())


def test_whatever_a_restart_raises_is_not_the_last_try(process, monkeypatch):
    async def run():
        engine = process(f"{READY}\nif not first: time.sleep(600)")
        spawn, calls = engine._spawn, []

        async def failing():
            calls.append(1)
            if len(calls) == 2:
                raise KeyError("whatever")
            return await spawn()

        monkeypatch.setattr(engine, "_spawn", failing)
        await engine.start()
        await ready_again(engine, 2)
        await engine.close()

    asyncio.run(run())


def test_a_system_that_cannot_say_does_not_end_the_watch(process, monkeypatch):
    async def run():
        engine = process(f"{READY}\ntime.sleep(600)")
        asked = []

        def unable(self, pid, token):
            asked.append(1)
            raise OSError("no /proc")

        monkeypatch.setattr(Silence, "limit_s", unable)
        monkeypatch.setattr(engine, "_first_line", lambda reader: engine_process._first_line(reader))
        await engine.start()
        assert engine.state == "ready"
        async with asyncio.timeout(60):
            while len(asked) < 2:
                await asyncio.sleep(0.01)
        await engine.close()

    asyncio.run(run())


READING = """
send({"ready": {"load_s": 0.1}})
channel.recv(1 << 16)
for _ in range(20):
    end = time.monotonic() + 0.1
    while time.monotonic() < end:
        pass
    if WORKED:
        send({"worked": True})
send({"events": [[1, [7], None, "stop"]]})
time.sleep(600)
"""


@pytest.mark.parametrize("worked", [True, False])
def test_a_long_prompt_is_no_hang_and_an_endless_loop_is_one(process, monkeypatch, worked):
    """Twenty steps without a token; the limit is a fourth of them."""
    monkeypatch.setattr(engine_process, "SPIN_S", 0.5)

    async def run():
        engine = process(READING.replace("WORKED", str(worked)))
        await engine.start()
        try:
            request = {"ids": [1], "max_tokens": 1}
            if worked:
                assert [event.ids async for event in engine.submit(request)] == [[7]]
                assert engine.restarts == 0
            else:
                with pytest.raises(EngineCrashed, match="made nothing"):
                    _ = [event async for event in engine.submit(request)]
        finally:
            await engine.close()

    asyncio.run(run())


class Reader:
    """An engine whose steps take so much of the processor, and give a token at the last."""

    def __init__(self, step_s: float, steps: int = 3) -> None:
        self.step_s, self.left = step_s, steps

    def busy(self) -> bool:
        return self.left > 0

    def step(self) -> list[Event]:
        begun = time.process_time()
        while time.process_time() - begun < self.step_s:
            pass
        self.left -= 1
        return [] if self.left else [Event(1, [7], finish="stop")]

    def metrics(self) -> dict[str, float]:
        return {}

    def idle(self, seconds: float) -> None:
        pass


@pytest.mark.parametrize(("step_s", "told"), [(0.2, 2), (0.0, 0)])
def test_a_step_that_computed_is_told_though_it_gave_nothing(monkeypatch, step_s, told):
    """One that found nothing to do is not: a scheduler that is stuck goes round and round."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.shutdown(socket.SHUT_WR)
        channel = engine_child.Channel(theirs)
        receive = channel.receive

        def after(timeout_s: float) -> list[dict[str, Any]]:
            return [] if engine.busy() else receive(timeout_s)  # the front leaves once all is done

        engine = Reader(step_s)
        monkeypatch.setattr(channel, "receive", after)
        engine_child._serve(engine, channel)
        theirs.close()
        lines = [json.loads(line) for line in ours.makefile("rb").read().splitlines()]
    assert [line for line in lines if "worked" in line] == [{"worked": True}] * told
    assert sum("events" in line for line in lines) == 1
