"""Engines that hang while they load, and watchers that go on whatever happens. Children of a few lines."""

from __future__ import annotations

import asyncio
import os
import sys
import textwrap

import pytest

from steelyard.errors import Lacking
from steelyard.serving.engines import EngineSettings
from steelyard.serving.host import engine_process
from steelyard.serving.host.engine_process import EngineProcess, Silence

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
