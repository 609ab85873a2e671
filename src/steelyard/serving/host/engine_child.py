"""The engine's own process: one thread that reads what is asked, steps, and tells what came.

Lines of JSON over an inherited Unix socket. In: settings (first line), then `{"op", "request_id", ...}`
with the ops add, cancel, score, embed, load_adapter, drop_adapter and forget_grammars. Out: `{"ready": ...}`,
`{"events": [[id, ids, logprobs, finish, tops, cached]]}`, `{"scores": ...}`, `{"embeddings": ...}`,
`{"done": id}`, `{"left": [id, whether none of it was computed]}` once a cancelled one is let go,
`{"failed": {"id", "why", "refused"}}`, `{"worked": true}` after a step that computed and gave nothing yet.
Ends when the socket closes or the parent dies.

Trap: no signal handler here. OpenVINO's CPU plugin unmaps a signal stack that the main thread still has once
two models were freed in the order of their making (2026.4): the next handled signal ends the process.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import orjson

from ...lines import Lines
from ...processes import die_with_parent, peak_rss_bytes
from ..engines import ENGINES, Engine, EngineSettings, Event, GenRequest, Scores

IDLE_TICK_S = 15.0
WORK_S = 0.1  # of processor time: a step so long has read a part of a prompt
LOADING_TICK_S = 0.01  # while an adapter loads, or a grammar compiles, beside the steps


class Channel:
    """JSON lines over a stream socket."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream, self.lines, self.closed = stream, Lines(), False

    def send(self, message: dict[str, Any]) -> None:
        self.stream.sendall(orjson.dumps(message) + b"\n")

    def receive(self, timeout_s: float) -> list[dict[str, Any]]:
        """Whole lines that are there, waiting at most `timeout_s` for the first."""
        if not select.select([self.stream], [], [], timeout_s)[0]:
            return []
        data = self.stream.recv(1 << 20)
        self.closed = not data
        return [orjson.loads(line) for line in self.lines.of(data)]


def main() -> None:
    die_with_parent(int(sys.argv[2]))
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    settings: list[dict[str, Any]] = []
    while not settings and not channel.closed:
        settings = channel.receive(60)
    started = time.monotonic()
    try:
        _pin(settings[0]["cores"])
        engine = ENGINES[settings[0]["engine"]]()(EngineSettings(**settings[0]))
    except Exception as e:  # whatever the native library raises goes to the front end as text
        channel.send({"failed": {"id": None, "why": f"{type(e).__name__}: {e}"}})
        return
    channel.send({"ready": {"load_s": time.monotonic() - started, "rss_bytes": peak_rss_bytes()}})
    _serve(engine, channel)
    engine.close()


def _pin(cores: list[int]) -> None:
    """Keep this process on some cores, before the native library counts them and starts its threads."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def _serve(engine: Engine, channel: Channel) -> None:
    last = time.monotonic()
    loading: dict[int, Future[None]] = {}
    scoring: deque[tuple[int, Iterator[Scores | None]]] = deque()  # one after another, between the steps
    leaving: dict[int, bool] = {}  # cancelled, and whether none of it was computed
    while not channel.closed:
        busy = engine.busy() or bool(scoring)
        messages = channel.receive(0 if busy else LOADING_TICK_S if loading else IDLE_TICK_S)
        for message in messages:
            if message["op"] == "cancel":
                loading.pop(message["request_id"], None)
                leaving[message["request_id"]] = engine.cancel(message["request_id"])
            elif message["op"] == "score":
                pieces = engine.score_pieces(message["ids"], message["top"])
                scoring.append((message["request_id"], pieces))
            elif (started := _handle(engine, channel, message)) is not None:
                loading[message["request_id"]] = started
        for request_id in [number for number, started in loading.items() if started.done()]:
            _loaded(channel, request_id, loading.pop(request_id))
        if messages or busy:
            last = time.monotonic()
        else:
            engine.idle(time.monotonic() - last)
        begun = time.process_time()
        if engine.busy() and (events := engine.step()):
            _tell(channel, events, engine.metrics())
        elif time.process_time() - begun > WORK_S:
            channel.send({"worked": True})
        if scoring and _score_on(engine, channel, *scoring[0]):
            scoring.popleft()
        for request_id in [number for number in leaving if not engine.holds(number)]:
            channel.send({"left": [request_id, leaving.pop(request_id)]})


def _score_on(engine: Engine, channel: Channel, request_id: int, pieces: Iterator[Scores | None]) -> bool:
    """One piece of a scoring pass; whether that was the last."""
    try:
        scores = next(pieces)
    except Exception as e:  # one bad request must not take the engine down
        _failed(channel, request_id, e)
        return True
    if scores is None:
        channel.send({"worked": True})
    else:
        arrays = [scores.logprobs, scores.top_ids, scores.top_logprobs]
        channel.send({"scores": [request_id, *arrays], "metrics": engine.metrics()})
    return scores is not None


def _tell(channel: Channel, events: list[Event], metrics: dict[str, float]) -> None:
    """What a step gave; a request that the engine would not take after all is refused."""
    for event in events:
        if event.why is not None:
            _failed(channel, event.request_id, ValueError(event.why))
    taken = [_event_fields(event) for event in events if event.why is None]
    channel.send({"events": taken, "metrics": metrics})


def _event_fields(event: Event) -> list[Any]:
    """Empty fields at the end are left out: most events have none, and each costs on the way."""
    fields = [event.request_id, event.ids, event.logprobs, event.finish, event.tops, event.cached]
    while fields[-1] is None:
        fields.pop()
    return fields


def _loaded(channel: Channel, request_id: int, started: Future[None]) -> None:
    if (why := started.exception()) is None:
        channel.send({"done": request_id})
    else:
        _failed(channel, request_id, why)


def _failed(channel: Channel, request_id: int, why: BaseException) -> None:
    """Of what the engine says that it cannot do, the words alone."""
    refused = isinstance(why, ValueError | NotImplementedError)
    message = str(why) if refused else f"{type(why).__name__}: {why}"
    channel.send({"failed": {"id": request_id, "why": message, "refused": refused}})


def _handle(engine: Engine, channel: Channel, message: dict[str, Any]) -> Future[None] | None:
    """What goes on beside the steps, if anything: its end is told later."""
    op = message.pop("op")
    request_id = message["request_id"]
    try:
        if op == "add":
            grammar = message.pop("grammar", None)  # JSON made a list of it
            return engine.add(GenRequest(**message, grammar=tuple(grammar) if grammar else None))
        elif op == "embed":
            channel.send({"embeddings": [request_id, engine.embed(message["batch"])]})
        elif op == "load_adapter":
            if started := engine.load_adapter(message["name"], message["folder"]):
                return started
            channel.send({"done": request_id})
        elif op == "drop_adapter":
            engine.drop_adapter(message["name"])
            channel.send({"done": request_id})
        elif op == "forget_grammars":
            engine.forget_grammars()
            channel.send({"done": request_id})
    except Exception as e:  # one bad request must not take the engine down
        _failed(channel, request_id, e)
    return None


if __name__ == "__main__":
    main()
    os._exit(0)  # native threads need no goodbye, and a slow one would outlast SIGTERM's 5 s
