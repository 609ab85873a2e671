"""Whether an engine can hold answers to a grammar: tried in a child first, within limits of time and memory.

A grammar is small and its compiler is not: 36 characters may take seconds or hundreds of MiB, and a fault in
the compiler ends the process. So one warm child compiles each new grammar before the engine meets it; what
comes of it is remembered. The engine then compiles what is known to be within the limits, beside its steps.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import socket
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson

from ....units import show_s
from ...base.errors import ApiError
from ...host.job import ANY_OBJECT, Constraint
from .plain import is_plain

CPU_S = 10.0  # a text of at most 255 characters takes 4 at a vocabulary of 49k
MEMORY_BYTES = 512 * 2**20  # while it compiles
CACHE_BYTES = 128 * 2**20  # of compiled grammars in an engine, which keeps them all
MOST_BYTES = CACHE_BYTES // 2  # of one
PLAIN_BYTES = 2**19  # of a small one that is not tried: 60 properties compile to 0.5 MiB
ENTRY_BYTES = 1024  # of what is remembered of one: its hash, and what is wrong with it
STUCK_S = 600.0  # of the clock: the limit of computing comes first, unless the child stands still
ENDING_S = 10.0  # between its last word and its end
COMMAND = (sys.executable, "-m", f"{__package__}.child")


@dataclass(frozen=True, slots=True)
class Verdict:
    """`why` None: it can be followed. `code`: of the error."""

    why: str | None = None
    code: str = "engine_refused"
    bytes: int = 0


class Grammars:
    """Asks the child, one grammar at a time, and one of each key in its turn."""

    def __init__(
        self,
        engine: str,
        folder: str,
        log: Callable[..., None] = lambda *_, **__: None,
        forget: Callable[[], Awaitable[None]] | None = None,
        cpu_s: float = CPU_S,
        memory_bytes: int = MEMORY_BYTES,
        command: Sequence[str] = COMMAND,
    ) -> None:
        """`forget`: has the engine forget what it compiled. The child starts with the first grammar."""
        self.command = command
        self.settings: dict[str, Any] = {
            "engine": engine, "folder": folder, "cpu_s": cpu_s, "memory_bytes": memory_bytes,
        }  # fmt: skip
        self.log, self.forget = log, forget
        self.verdicts: OrderedDict[bytes, Verdict] = OrderedDict()  # the longest unused first
        self.verdicts[digest(ANY_OBJECT)] = Verdict()  # what the child itself begins with
        self.bytes = 0
        self.starts = 0  # of children
        self._turns: dict[str, asyncio.Lock] = {}
        self._one = asyncio.Lock()
        self._child: Child | None = None

    def move(self, folder: str) -> None:
        """Where a new child finds the model from now on."""
        self.settings["folder"] = folder

    async def check(self, grammar: Constraint, owner: str) -> None:
        """Raises ApiError 400 where it cannot be followed, or exceeds a limit; 503 where no child starts."""
        key = digest(grammar)
        verdict = self._remembered(key)
        if verdict is None and is_plain(grammar):
            verdict = self._remember(key, Verdict(bytes=PLAIN_BYTES))
            if self.bytes > CACHE_BYTES:
                async with self._one:
                    await self._forget_if_full()
        verdict = verdict or await self._in_turn(key, grammar, owner)
        if verdict.why is not None:
            raise ApiError(400, verdict.why, code=verdict.code)

    def _remembered(self, key: bytes) -> Verdict | None:
        if key in self.verdicts:
            self.verdicts.move_to_end(key)
        return self.verdicts.get(key)

    async def _in_turn(self, key: bytes, grammar: Constraint, owner: str) -> Verdict:
        """A key has one grammar under way, whoever of its clients leaves meanwhile."""
        if len(self._turns) > 1000:
            self._turns = {name: turn for name, turn in self._turns.items() if turn.locked()}
        turn = self._turns.setdefault(owner, asyncio.Lock())
        await turn.acquire()
        if verdict := self._remembered(key):
            turn.release()
            return verdict
        trying = asyncio.create_task(self._tried(key, grammar))
        trying.add_done_callback(lambda tried: tried.cancelled() or tried.exception())  # looked at
        trying.add_done_callback(lambda _: turn.release())
        return await asyncio.shield(trying)

    async def _tried(self, key: bytes, grammar: Constraint) -> Verdict:
        async with self._one:
            if verdict := self._remembered(key):
                return verdict
            child = await self._warm()
            reply = await child.ask({"grammar": list(grammar)})
            if reply is None or "over" in reply:
                self._child = None
                await child.close()
            verdict = self._remember(key, self._verdict(grammar[0], reply, child.ended_by))
            await self._forget_if_full()
            return verdict

    async def _warm(self) -> Child:
        """Raises ApiError 503 where none starts."""
        if self._child is None or not self._child.lives:
            self.starts += 1
            self._child = child = Child(self.command)
            if why := await child.start(self.settings):
                self._child = None
                await child.close()
                self.log("grammars.child_failed", why=why)
                raise _not_now()
        return self._child

    def _verdict(self, kind: str, reply: dict[str, Any] | None, ended_by: int | None) -> Verdict:
        """Raises ApiError 503 where the child was ended from outside: that says nothing of the grammar."""
        if reply is not None and "why" in reply:
            if reply["why"] is not None:
                return Verdict(reply["why"])
            if reply["bytes"] <= MOST_BYTES:
                return Verdict(bytes=reply["bytes"])
            return _too_large(kind, f"takes more than {MOST_BYTES // 2**20} MiB once it is compiled")
        self.log("grammars.child_ended", signal=ended_by, kind=kind)
        if reply is not None or ended_by == signal.SIGABRT:  # a thread that gets no memory aborts
            mib = self.settings["memory_bytes"] // 2**20
            return _too_large(kind, f"takes more than {mib} MiB of memory to compile")
        if ended_by == signal.SIGPROF:
            limit = show_s(self.settings["cpu_s"])
            return _too_large(kind, f"takes more than {limit} of computing to compile")
        if ended_by in (signal.SIGSEGV, signal.SIGBUS):
            return _too_large(kind, "is nested too deeply for the compiler")
        raise _not_now()

    def _remember(self, key: bytes, verdict: Verdict) -> Verdict:
        self.verdicts[key] = verdict
        self.bytes += ENTRY_BYTES + verdict.bytes
        return verdict

    async def _forget_if_full(self) -> None:
        """Where too much has been compiled, all of it is forgotten: here, in the child and in the engine."""
        if self.bytes <= CACHE_BYTES:
            return
        self.verdicts = OrderedDict({digest(ANY_OBJECT): Verdict()})
        self.bytes = 0
        await self.close()
        if self.forget:
            await self.forget()

    async def close(self) -> None:
        if child := self._child:
            self._child = None
            await child.close()


def digest(grammar: Constraint) -> bytes:
    return hashlib.sha256("\0".join(grammar).encode("utf-8", "surrogatepass")).digest()


def _not_now() -> ApiError:
    return ApiError(503, "grammars cannot be checked now", code="engine_unavailable", retry_after=5)


def _too_large(kind: str, how: str) -> Verdict:
    return Verdict(f"the {kind} {how}; take smaller bounds, or fewer parts", "grammar_too_large")


class Child:
    """One process of child.py."""

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self.command = command
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def lives(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def ended_by(self) -> int | None:
        """The signal that ended it."""
        code = self._process.returncode if self._process else None
        return -code if code is not None and code < 0 else None

    async def start(self, settings: dict[str, Any]) -> str | None:
        """Why it cannot try any grammar, None where it can."""
        ours, theirs = socket.socketpair()
        command = [*self.command, str(theirs.fileno()), str(os.getpid())]
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, process_group=0,
                env={**os.environ, "MALLOC_ARENA_MAX": "2"},  # what is given back can be counted
            )  # fmt: skip
        self._reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        reply = await self.ask(settings)
        return None if reply and "ready" in reply else str((reply or {}).get("failed", "it ended"))

    async def ask(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """Its reply; None where it ended, or was ended after `STUCK_S`."""
        assert self._writer and self._reader and self._process
        self._writer.write(orjson.dumps(message) + b"\n")
        with suppress(TimeoutError, ConnectionError, ValueError):
            async with asyncio.timeout(STUCK_S):
                reply: dict[str, Any] = orjson.loads(await self._reader.readline())
                return reply
        await self._ended()
        return None

    async def _ended(self) -> None:
        """It has ended, or does soon, or is ended. A signal sent to a dead one would hide what ended it."""
        assert self._process
        with suppress(TimeoutError):
            async with asyncio.timeout(ENDING_S):
                await self._process.wait()
        self._kill()
        await self._process.wait()

    def _kill(self) -> None:
        if self.lives and self._process:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)

    async def close(self) -> None:
        self._kill()
        if self._writer:
            self._writer.close()
        if self._process:
            await self._process.wait()
