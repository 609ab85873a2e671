"""The front end's process: the HTTP server, the engine's keeper, and a control socket.

`python -m steelyard.serving.service.front` reads {"folder", "settings", "parent"} as one line on standard
input (a key must not stand in an argument list), and answers with one line once a token has been made:
{"url", "pid", "control", ...} or {"error", "exit_code"}. The control socket takes {"op": "promote"}, {"op":
"end"} (a successor listens: listen no longer, and end), {"op": "stands"} (has anybody said so),
{"op": "canary"} (of a candidate: follow the service that stands), {"op": "listening"} (of that one: its
listening sockets), {"op": "mirror"} (of that one: copies of
requests from now on) and {"op": "follow"}, which is answered by {"busy": ...} now and at each change.
"""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import uvicorn

from ...artefact import is_private, private_folder, sweep_private_folders
from ...connections import GRACE_S, Connections, bounded, raise_file_limit
from ...errors import Lacking, Problem, from_os_error
from ...model import Tokenizer
from ...processes import die_with_parent, outlive_parent
from ...trust import SIMULATED
from ..base.access import is_loopback
from ..base.errors import refusal
from ..base.keys import LOOK_AGAIN_S, SAVE_S, KeyRing
from ..base.log import log, log_to, mark_log, written
from ..base.measures import Measures
from ..base.spans import export_spans
from ..engines import CAPABILITIES, TRIALS
from ..host.encoders import EncoderService
from ..host.engine_process import EngineLost, EngineProcess
from ..host.generation import Served
from ..host.joined import Fleet, Texts, read_server_keys
from ..host.replicas import Replicas, Scale, Scaler, Scaling
from ..host.settings import (
    ServeSettings,
    accounts_of,
    cache_blocks,
    check_host,
    engine_settings,
    replica_settings,
    router_of,
    sealing_keys,
)
from ..rolling.canary import Canary, Order
from ..rolling.mirror import as_line
from ..rolling.nightly import Nightly
from ..turn.answer_guard import AnswerGuard
from ..turn.grammars.check import Grammars
from .address import local_url, url_of
from .sealed_door import SealedDoor
from .sealing import sealing_of
from .state import CANARY_LOG, LOG, forget_state, read_state, write_state
from .succession import stands, until_ended
from .supervisor import Supervisor
from .tls import loopback_context, tls_context

SLOW_READER_MS = 60_000
HAND_OVER_S = 0.3  # uvicorn looks every 0.1 s whether it should exit
UNASKED_S = 2.0  # a client that has connected and not asked yet has so long before its connection is closed
ADOPT_S = 2.0  # for the older service to give its listening socket
MOST_LISTENING = 8  # sockets of one service
CUT_S = 0.3  # for the last words of answers that are ended
SWITCH_S = 0.001  # the loop waits no longer for its turn beside a thread that renders (Python: 5 ms)
WARM_UP_TOKENS = 64  # of the prompt: a prefill step and its kernels


def bind(host: str, port: int, shared: bool = False) -> socket.socket:
    """A listening socket. Raises Lacking where the port is taken or the address is not ours.

    Every service lets its own successor listen on its port beside it (`shared`), so that the one takes over
    from the other without a gap; the kernel allows that to the same user alone. Anyone else finds it taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if port and not shared:
        _check_free(family, host, port)
    # With the protocol named, asyncio sets TCP_NODELAY on what it accepts; without, a first token waits 40 ms
    # for the client's delayed acknowledgement.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # a reader that takes nothing for so long has gone
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SLOW_READER_MS)
    if hasattr(socket, "SO_REUSEPORT"):
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listening.bind((host, port))
        listening.listen(1024)
    except OSError as e:
        listening.close()
        raise _port_taken(host, port, e) from e
    listening.setblocking(False)
    return listening


def adopted(older: dict[str, Any] | None, host: str, port: int) -> socket.socket | None:
    """The older service's own listening socket: whoever waits in its line is answered by its successor.

    None where that service gives none (of an earlier version) or listens elsewhere.
    """
    if older is None or not older.get("control"):
        return None
    with suppress(OSError, ValueError), socket.socket(socket.AF_UNIX) as asking:
        wanted = {found[4][:2] for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
        asking.settimeout(ADOPT_S)
        asking.connect(older["control"])
        asking.sendall(b'{"op": "listening"}\n')
        _, fds, _, _ = socket.recv_fds(asking, 1024, MOST_LISTENING)
        given = [socket.socket(fileno=fd) for fd in fds]
        ours = next((one for one in given if one.getsockname()[:2] in wanted), None)
        for one in given:
            if one is not ours:
                one.close()
        return ours
    return None


def _check_free(family: socket.AddressFamily, host: str, port: int) -> None:
    """Nobody listens there: a socket that shares with nobody finds out."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as e:
            raise _port_taken(host, port, e) from e


def _port_taken(host: str, port: int, error: OSError) -> Lacking:
    return Lacking(
        "serve.port_taken",
        f"cannot listen on {host}:{port}",
        why=error.strerror or str(error),
        hint=f"stop what listens there (see `ss -ltnp sport = :{port}`), or give another --port",
    )


def hold_open(*folders: str | Path | None) -> list[int]:
    """Descriptors of the folders a restarted engine reads again: `gc` sees that they are in use."""
    return [os.open(f, os.O_RDONLY) for f in folders if f is not None and os.path.isdir(f)]


class Front:
    """One served model in this process. `run` returns when it has been told to stop."""

    def __init__(self, folder: Path, settings: ServeSettings, candidate: bool = False) -> None:
        """A candidate leaves batches and jobs alone until it is promoted."""
        self.folder, self.settings, self.candidate = folder, settings, candidate
        self.stopping, self.hurried = asyncio.Event(), asyncio.Event()
        self.handed_over = False  # a successor listens on the same port
        self.noted = False  # its beginning stands in the audit log, and so will its end
        self.published: Path | None = None  # the folder that names this service
        self.before: dict[str, Any] | None = None  # its service.json of the service that stood there before
        self.taking_up: asyncio.Task[None] | None = None  # waits for that one's end
        self.nightly: asyncio.Task[None] | None = None  # has the model refreshed when it is time
        self.canary: Canary | None = None  # it follows the service that stands, or is watched since
        self.supervisor = Supervisor()
        self.servers: list[uvicorn.Server] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.connections = Connections(raise_file_limit(), refusal)
        if settings.trust != "open":
            sweep_private_folders()
        if settings.sealed:
            mark_log(trust=SIMULATED)
        if settings.log_file:
            self._log_to(Path(settings.log_file))
        self.tls = tls_context(settings)
        self.first_tls = loopback_context(settings) if candidate else self.tls  # where it first listens
        self.sealing = sealing_of(settings)
        export_spans(settings.name)
        self.holds = hold_open(folder, settings.embed_folder, settings.draft, settings.source, settings.route)
        self.router = router_of(settings.route, settings.adapters)
        keys = Path(settings.keys) if settings.keys else None
        self.keys = KeyRing(settings.api_key, keys, log, shares=not candidate, shared=accounts_of(settings))
        self.scale = Scale.of(self.settings.scale, self.settings.replicas)
        self.engine = self._engine()
        self.encoder = self._encoder()
        self.grammars = self._grammars()
        self.private = Path(tempfile.mkdtemp(prefix="steelyard-serve-"))  # mode 0700; last: it wants removing

    def _log_to(self, file: Path) -> None:
        """Raises Lacking where it cannot be written."""
        try:
            log_to(file, sealing_keys(self.settings))
        except OSError as e:
            raise from_os_error(e) or e from e

    def _tokenizer(self) -> Tokenizer | Texts:
        return Texts() if self.settings.join else Tokenizer(self.folder)

    def _engine(self) -> EngineProcess | Replicas | Fleet:
        if self.settings.join:
            keys = read_server_keys(self.settings.join, self.settings.join_key)
            asked_by = {url: keys.get(url) for url in self.settings.join}
            return Fleet(asked_by, self.settings.max_num_seqs, self.settings.join_silence_s, log)
        engines = [EngineProcess(one, log, _output()) for one in replica_settings(self.folder, self.settings)]
        if len(engines) == 1:
            return engines[0]
        return Replicas(engines, cache_blocks(self.folder, engines[0].settings), self.scale.least)

    def _grammars(self) -> Grammars | None:
        """Where the engine's compiler can be tried without the engine."""
        engine = self.settings.engine
        if self.settings.join or engine not in TRIALS or not CAPABILITIES[engine]().grammar:
            return None
        return Grammars(engine, str(self.folder), log, self.engine.forget_grammars)

    async def run(self, ready: Callable[[dict[str, Any]], None]) -> None:
        """Serve until SIGTERM, SIGINT or `stop`. Raises Problem where it cannot begin."""
        for sig in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(sig, self._signalled)
        try:
            check_host(self.settings.host, self.settings.api_key, self.settings.keys)
            listening = bind(self.settings.host, self.settings.port)
            await self._start(listening)
            if not self.stopping.is_set():
                ready(self.document(listening, self.first_tls))
                self.supervisor.tell("READY=1", f"STATUS=serving {self.settings.name}")
                self.alive = asyncio.create_task(self.supervisor.stay_alive())
                if not self.candidate:
                    self._note("service.started")
                    self._take_up()
            await self.stopping.wait()
            await self._drain()
        finally:
            await self._close()

    def _note(self, act: str) -> None:
        """Of a service that is somebody's: a candidate that is not promoted is the gate's alone."""
        self.noted = True
        written(act, artefact=self.settings.fingerprint, service=os.getpid())

    def _signalled(self) -> None:
        """SIGTERM or Ctrl-C: an end in good order; the second: at once; the third is the system's affair."""
        if self.stopping.is_set():
            self.hurried.set()
            for sig in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().remove_signal_handler(sig)
                signal.signal(sig, signal.SIG_DFL)
        self.stopping.set()

    async def _start(self, listening: socket.socket) -> None:
        starting = asyncio.create_task(self.engine.start())
        await asyncio.sleep(0)  # the engine loads while the tokenizer and the API do
        await asyncio.sleep(0)
        tokenizer = await asyncio.to_thread(self._tokenizer)
        from ..api.app import app

        stopped = asyncio.create_task(self.stopping.wait())
        await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            return
        starting.result()
        measures = Measures(self.settings.name, self.settings.engine)
        self.served = Served(
            self.engine,
            tokenizer,
            measures,
            self.keys,
            self.settings.max_queue_s,
            clamp=self.settings.clamp_max_tokens,
            adapter_budget=self.settings.adapter_bytes,
            grammars=self.grammars,
        )
        self.served.router = None if self.candidate else self.router  # the gate judges the model itself
        self.served.guard = None if self.candidate else self._guard()
        from importlib.metadata import version

        self.app: Any = app(self.served, self.settings, version("steelyard"), self.folder)
        await self._warm_up()
        await self._start_encoder()
        self._listen(listening, self.first_tls, quiet=self.candidate)
        self.saving = asyncio.create_task(self._save_budgets())
        self.looking = asyncio.create_task(self._look_at_keys())
        self._scale()
        control = str(self.private / "control")
        self.control = await asyncio.start_unix_server(self._controlled, control)

    def _scale(self) -> None:
        """Replicas come and go with the load, where they may."""
        if not (self.settings.scale and isinstance(self.engine, Replicas)):
            return
        lines = [self.served.admission]
        if self.encoder is self.engine:  # the replicas embed, and that has a line of its own
            lines.append(self.served.encoding)
        at_once = lambda: sum(line.running + line.waiting for line in lines)  # noqa: E731
        scaler = Scaler(self.engine, Scaling(self.scale), at_once, log)
        self.scaling = asyncio.create_task(scaler.run())

    async def _warm_up(self) -> None:
        """The first prefill and decode steps compile kernels: not on a user's time."""
        if self.settings.join:
            return
        try:
            await self.served.probe(WARM_UP_TOKENS)
            began = time.perf_counter()
            await self.served.probe(WARM_UP_TOKENS, first=0)
            self.served.admission.rate.start_from(WARM_UP_TOKENS, time.perf_counter() - began)
            await self.served.probe(1)
        except EngineLost as e:
            raise Lacking("serve.engine", "the engine makes no token", why=str(e), hint="see the log") from e

    def _encoder(self) -> EngineProcess | Replicas | None:
        """The engine of the encoder beside the model, or the one engine where that is an encoder."""
        if self.settings.engine == "encoder" and not isinstance(self.engine, Fleet):
            return self.engine
        if self.settings.embed_folder is None:
            return None
        settings = replace(self.settings, engine="encoder", max_model_len=None)
        return EngineProcess(engine_settings(Path(self.settings.embed_folder), settings), log, _output())

    async def _start_encoder(self) -> None:
        if self.encoder is None:
            return
        if self.encoder is not self.engine:
            await self.encoder.start()
        folder = Path(self.settings.embed_folder or self.folder)
        name = Path(self.settings.embed_model or self.settings.name).name
        self.served.encoder = await asyncio.to_thread(EncoderService, self.encoder, folder, name)

    def _take_up(self) -> None:
        """Batches and tuning jobs that an earlier process left."""
        self.served.stores.begin(self.app.inner)

    async def _take_up_after(self, older: dict[str, Any] | None) -> None:
        """Once the older service has ended: two would run the same batch twice."""
        if older:
            await until_ended(older)
        self.before, self.keys.shares = None, True
        self._take_up()

    def document(self, listening: socket.socket, tls: ssl.SSLContext | None) -> dict[str, Any]:
        """`url` is for clients anywhere, `local_url` for this machine's own verbs."""
        about = {
            "url": url_of(listening, tls is not None, self.settings.allowed_host),
            "local_url": local_url(listening, tls is not None),
            "drain_s": self.settings.drain_s,
            "pid": os.getpid(),
            "engine_pid": self.engine.pid,
            "engine_pids": self.engine.pids,
            "load": self.engine.load,
            **(self.sealing.about if self.sealing else {}),
        }
        return {**about, "control": str(self.private / "control")}

    def _listen(self, listening: socket.socket, tls: ssl.SSLContext | None, quiet: bool = False) -> None:
        """A candidate is asked by the gate, on loopback, and nobody reads of it."""
        if tls is None and not is_loopback(listening.getsockname()[0]):
            log("service.not_encrypted", why="anyone on the way can read keys and prompts", fix="--tls-cert")
        access = self.settings.access(listening.getsockname()[0])
        door: Any = self.app.on(access, quiet)
        if self.sealing and not quiet:
            door = SealedDoor(door, access, self.sealing.key, self.sealing.statement)
            log("service.sealed", **self.sealing.about)
        server = _Server(bounded(door, self.connections, tls))
        self.servers.append(server)
        self.tasks.append(asyncio.create_task(server.serve(sockets=[listening])))

    # ------------------------------------------------------------------ control

    async def _controlled(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            order = orjson.loads(await reader.readline())
            if order["op"] == "follow":
                await self._tell_work(writer)
                return
            if order["op"] == "listening":
                self._give_listening(writer)
                return
            if order["op"] == "mirror":
                await self._tell_copies(reader, writer, float(order["share"]))
                return
            answer = self._obey(order)
        except (Problem, OSError) as e:
            problem = e if isinstance(e, Problem) else from_os_error(e) or Lacking("serve.control", str(e))
            answer = {**problem.as_json(), "exit_code": problem.exit_code}
        writer.write(orjson.dumps(answer) + b"\n")
        await writer.drain()
        writer.close()

    def _give_listening(self, writer: asyncio.StreamWriter) -> None:
        """Its listening sockets, to the successor; both accept what comes until this one has handed over."""
        sockets = [
            one for server in self.servers for listening in server.servers for one in listening.sockets
        ]
        with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as line:
            socket.send_fds(line, [b"\n"], [one.fileno() for one in sockets][:MOST_LISTENING])
        writer.close()

    async def _tell_work(self, writer: asyncio.StreamWriter) -> None:
        """A line whenever work begins or ends, for what gives way to it, until that hangs up."""
        with suppress(ConnectionError):
            async for busy in self.served.drain.changes():
                writer.write(orjson.dumps({"busy": busy}) + b"\n")
                await writer.drain()

    async def _tell_copies(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, share: float
    ) -> None:
        """A line for each copied request, until the candidate hangs up."""

        async def tell() -> None:
            async for copy in self.served.mirror.copies(share):
                writer.write(as_line(copy))
                await writer.drain()

        telling = asyncio.create_task(tell())
        hung_up = asyncio.create_task(reader.read(1))
        await asyncio.wait({telling, hung_up}, return_when=asyncio.FIRST_COMPLETED)
        for task in (telling, hung_up):
            task.cancel()
        await asyncio.gather(telling, hung_up, return_exceptions=True)
        writer.close()

    def _obey(self, order: dict[str, Any]) -> dict[str, Any]:
        if order["op"] == "promote":
            if verdict := order.get("verdict"):
                self.served.gate = {"verdict": "passed", "hash": verdict}
            return self._promote(order["host"], order["port"], order.get("state_folder"), order.get("after"))
        if order["op"] == "canary":
            return self._follow(Order.from_json(order["order"]))
        if order["op"] in ("hand_over", "end"):
            self.handed_over = True
            if order["op"] == "end":  # a signal would hurry one that ends already
                self.stopping.set()
            return {}
        if order["op"] == "stands":
            return {"stands": not self.stopping.is_set()}
        raise Lacking("serve.control", f"no order {order['op']!r}")

    def _follow(self, order: Order) -> dict[str, Any]:
        """Live on alone, asked by nobody, and answer copies of what the standing service is asked."""
        self._keep_model()
        self._log_to(Path(order.folder) / CANARY_LOG)
        detach()
        self.served.guard = self._guard()  # it is held to answers that have gone by one
        inner, mirror = self.app.inner, self.served.mirror
        self.canary = Canary(order, inner, mirror, self.stopping.set, lambda: self.engine.state == "ready")
        log("canary.begun", share=order.share, requests=order.budget.requests)
        return {"pid": os.getpid(), "control": str(self.private / "control")}

    def _promote(
        self, host: str, port: int, state_folder: str | None, after: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Listen for the user too, and live on alone; beside an older service that will soon be stopped.

        What can fail comes first: a full disk leaves it a candidate."""
        check_host(host, self.settings.api_key, self.settings.keys)
        if self.canary is None:
            self._keep_model()
        shares = after is not None and after.get("shares", True)
        listening = (adopted(after, host, port) if shares else None) or bind(host, port, shared=shares)
        message = self.document(listening, self.tls)
        try:
            self._write_down(state_folder, message)
        except BaseException:
            listening.close()
            raise
        self.served.router, self.served.guard = self.router, self._guard()
        self.keys.promoted()
        self._listen(listening, self.tls)
        detach()
        self.taking_up = asyncio.create_task(self._take_up_after(after))
        self._begin_nightly()
        self._note("service.started")
        log("service.published", url=message["url"])
        if self.canary:
            self.canary.promoted()
        return message

    def _write_down(self, state_folder: str | None, message: dict[str, Any]) -> None:
        """So that it is found from now on. Raises Lacking, OSError."""
        if state_folder is None:
            return
        folder = Path(state_folder)
        self._log_to(folder / LOG)
        before = read_state(folder)
        state = {**message, "url": message["local_url"], "fingerprint": self.settings.fingerprint}
        write_state(folder, state)
        self.published, self.before = folder, before

    async def _older_that_stands(self) -> dict[str, Any] | None:
        """Where whoever switched has not ended it, and this one goes: that is the one to be found."""
        return self.before if self.before and await stands(self.before) else None

    def _begin_nightly(self) -> None:
        """The service that users have looks after its refreshes; a candidate does not."""
        if self.settings.refresh and self.nightly is None:
            at_once = lambda: self.served.drain.under_way  # noqa: E731
            nightly = Nightly(self.settings.refresh["every"], self.settings.refresh["command"], at_once)
            self.nightly = asyncio.create_task(nightly.run())

    def _guard(self) -> AnswerGuard | None:
        guard, visible = self.settings.guard, bool(self.settings.label.get("visible"))
        return AnswerGuard(guard, self.served.measures.guarded, visible) if guard or visible else None

    def _keep_model(self) -> None:
        """A sealed model lies opened in memory, for as long as its starter lives: keep links to its files.

        A restarted engine reads them again; they go with this process.
        """
        if not is_private(self.folder):
            return
        own = private_folder()
        shutil.copytree(self.folder, own, copy_function=os.link, dirs_exist_ok=True)
        self.folder = own
        self.engine.move(str(own))
        if self.grammars:
            self.grammars.move(str(own))

    async def _save_budgets(self) -> None:
        while True:
            await asyncio.sleep(SAVE_S)
            await self.keys.share()

    async def _look_at_keys(self) -> None:
        """A broken file is reported at once, not at the next request."""
        while True:
            await asyncio.sleep(LOOK_AGAIN_S)
            self.keys.look()

    async def _drain(self) -> None:
        """No new work; what is under way has its time, then ends with an error."""
        if not hasattr(self, "served"):
            return
        drain, limit_s = self.served.drain, self.settings.drain_s
        if self.canary:
            self.canary.rest()  # what is cut off now is not the model's fault
        if self.taking_up:
            self.taking_up.cancel()
        if self.nightly:
            self.nightly.cancel()
        if self.handed_over:
            await self._stop_listening()
        drain.begin(limit_s)
        self.supervisor.tell("STOPPING=1", f"STATUS=waits for {drain.under_way} requests")
        log("service.draining", under_way=drain.under_way, drain_s=limit_s)
        hurried = asyncio.create_task(self.hurried.wait())
        if await _first(drain.idle(), hurried, limit_s):
            log("service.cut", under_way=drain.under_way, hurried=self.hurried.is_set())
            self.served.end()
            await _first(drain.idle(), None, CUT_S)
        hurried.cancel()

    async def _stop_listening(self) -> None:
        """Who comes now comes to the successor; idle connections are closed before any is refused."""
        for server in self.servers:
            for listening in server.servers:
                listening.close()
        end = time.monotonic() + UNASKED_S
        while self.connections.unasked and time.monotonic() < end:
            await asyncio.sleep(0.02)
        for server in self.servers:
            server.config.timeout_graceful_shutdown = math.ceil(self.settings.drain_s) + GRACE_S
            server.should_exit = True
        await asyncio.sleep(HAND_OVER_S)

    async def _close(self) -> None:
        if self.canary:
            self.canary.close()
        if self.nightly:
            self.nightly.cancel()
        for server in self.servers:
            server.should_exit = True
        if scaling := getattr(self, "scaling", None):
            scaling.cancel()
        parts = [self._close_connections(), self.engine.close()]
        if (served := getattr(self, "served", None)) and served.stores:
            parts.append(served.stores.close())
        if self.grammars is not None:
            parts.append(self.grammars.close())
        if self.encoder is not None and self.encoder is not self.engine:
            parts.append(self.encoder.close())
        await asyncio.gather(*parts, return_exceptions=True)
        if saving := getattr(self, "saving", None):
            saving.cancel()
            await self.keys.share_last()
        self.keys.close()
        if self.noted:
            self._note("service.stopped")
        if self.published:
            forget_state(self.published, await self._older_that_stands())
        shutil.rmtree(self.private, ignore_errors=True)
        log("service.stopped")

    async def _close_connections(self) -> None:
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=GRACE_S + 1)


async def _first(work: Coroutine[Any, Any, None], other: asyncio.Task[Any] | None, limit_s: float) -> bool:
    """Wait for `work`, for `other` at most, `limit_s` at most. Whether `work` was not done by then."""
    task = asyncio.create_task(work)
    await asyncio.wait(
        {task, other} if other else {task}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED
    )
    left = not task.done()
    task.cancel()
    return left


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: several servers share this process."""

    def capture_signals(self) -> Any:
        return nullcontext()


def detach() -> None:
    """Outlive the process that started us; keep nothing of its terminal."""
    outlive_parent()
    if not _is_file(2):
        _close_stream(2)


def _is_file(fd: int) -> bool:
    return stat.S_ISREG(os.fstat(fd).st_mode)


def _output() -> int:
    """The engine's native words go to a log file or nowhere: a pipe would end with its reader."""
    return 2 if _is_file(2) else subprocess.DEVNULL


def _close_stream(fd: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, fd)
    os.close(nowhere)


def main() -> None:
    order = orjson.loads(sys.stdin.buffer.readline())
    if order["parent"]:
        die_with_parent(order["parent"])
    sys.setswitchinterval(SWITCH_S)
    answer = os.dup(1)
    _close_stream(0)
    _close_stream(1)

    def tell(document: dict[str, Any]) -> None:
        os.write(answer, orjson.dumps(document) + b"\n")
        os.close(answer)

    try:
        settings = ServeSettings(**order["settings"])
        asyncio.run(_run(Path(order["folder"]), settings, tell, candidate=bool(order["parent"])))
    except Problem as e:
        log("service.failed", code=e.code, why=e.why)
        tell({**e.as_json(), "exit_code": e.exit_code})
        sys.exit(e.exit_code)


async def _run(
    folder: Path, settings: ServeSettings, ready: Callable[[dict[str, Any]], None], candidate: bool
) -> None:
    await Front(folder, settings, candidate).run(ready)


if __name__ == "__main__":
    main()
