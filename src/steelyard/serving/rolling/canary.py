"""The candidate's own part: follow the standing service, answer its copies, count, say what follows.

State is one file, written as it changes: a candidate that is started again goes on from it. What a promotion
and a way back are is not known here: a command is started for each.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson
from starlette.types import ASGIApp

from ...artefact import write_durably
from ...older import read_as
from ..base.guard import Caller
from ..base.log import log
from ..jobs.inner_call import ask
from .command import run_command
from .comparing import pair
from .deciding import Budget, Tally, Watch, late_after
from .mirror import MOST_BYTES, Mirror

FILE = "canary_tally.json"
AT_ONCE = 4  # copies that are answered together
FIRSTS = 400  # times to a first piece that are remembered
WRITE_S = 1.0
DOWN_S = 10.0  # an engine that was lost starts again sooner
DOWN = "its engine is down"
COPY_S = 120.0  # of one copy: whoever asked has long had the other answer
TRIES = 3  # of the promotion
AGAIN_S, SELDOM_S = 5.0, 60.0  # between tries; of going back, which has no last one, more and more
FINAL = (2, 3, 4)  # exit codes of what does not pass by waiting: nothing to go back to, refused, changed


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """`control`: of the service that stands. `promote`, `back`: command lines."""

    folder: str  # of the state file
    candidate: str  # hash of the artefact
    control: str
    share: float
    budget: Budget
    promote: tuple[str, ...]
    back: tuple[str, ...]

    @staticmethod
    def from_json(document: dict[str, Any]) -> Order:
        given = {**document, "budget": Budget(**document["budget"])}
        return Order(**given | {name: tuple(document[name]) for name in ("promote", "back")})


def read_tally(folder: Path) -> dict[str, Any] | None:
    """The state file; None where there is none that can be read."""
    with suppress(OSError, orjson.JSONDecodeError):
        document = orjson.loads((folder / FILE).read_bytes())
        return document if isinstance(document, dict) else None
    return None


class Canary:
    """`end` ends this process's service in good order; `is_up`: whether its engine can answer."""

    def __init__(
        self,
        order: Order,
        app: ASGIApp,
        mirror: Mirror,
        end: Callable[[], None],
        is_up: Callable[[], bool],
    ) -> None:
        self.order, self.app, self.mirror, self.end, self.is_up = order, app, mirror, end, is_up
        self.folder = Path(order.folder)
        self.tally, self.firsts, self.state = Tally(), list[float](), "shadowing"
        self.watch: Watch | None = None
        self.hindered: str | None = None  # why it has not gone back yet
        self.resting = False
        self._take_up()
        self._decided, self._answering = asyncio.Event(), set[asyncio.Task[None]]()
        self._written: bytes | None = None
        self.write()
        self.tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._keep())]

    def _take_up(self) -> None:
        """What an earlier process has counted of the same candidate, by the same budget."""
        earlier = read_tally(self.folder) or {}
        same = (earlier.get("candidate"), earlier.get("budget"), earlier.get("state")) == (
            self.order.candidate, asdict(self.order.budget), "shadowing",
        )  # fmt: skip
        if same:
            with suppress(KeyError, TypeError, ValueError):
                self.tally, self.firsts = read_as(Tally, earlier["tally"]), list(earlier["first_s"])

    # ------------------------------------------------------------------ before the promotion

    async def _run(self) -> None:
        why: str | None = self.tally.why if self.tally.word != "wait" else await self._follow()
        if self.tally.word == "promote" and self.state == "shadowing":
            why = await self._take_place()
            if why is None:
                return
        if self.state == "shadowing":
            self._back(why or self.tally.why)

    async def _follow(self) -> str:
        """Answer copies until that decides; what ended it otherwise."""
        reading, decided = asyncio.create_task(self._read()), asyncio.create_task(self._decided.wait())
        try:
            await asyncio.wait({reading, decided}, return_when=asyncio.FIRST_COMPLETED)
            return self.tally.why if self._decided.is_set() else reading.result()
        finally:
            reading.cancel()
            decided.cancel()
            for task in self._answering:
                task.cancel()

    async def _read(self) -> str:
        """Copies, as they come; returns why no more come."""
        try:
            reader, writer = await asyncio.open_unix_connection(self.order.control, limit=8 * MOST_BYTES)
        except OSError as e:
            return f"the service that stands cannot be followed: {e.strerror}"
        try:
            writer.write(orjson.dumps({"op": "mirror", "share": self.order.share}) + b"\n")
            while line := await reader.readline():
                copy = orjson.loads(line)
                if "path" not in copy:
                    return "the service that stands was started by a version that has no canaries"
                if len(self._answering) < AT_ONCE:
                    task = asyncio.create_task(self._answer(copy))
                    self._answering.add(task)
                    task.add_done_callback(self._answering.discard)
        except (OSError, ValueError) as e:  # a cut line, a line beyond the limit
            return f"the service that stands cannot be followed: {e}"
        finally:
            writer.close()
        return "the service that stood has ended"

    async def _answer(self, copy: dict[str, Any]) -> None:
        """One copy, and what it says of the candidate."""
        began = time.perf_counter()
        status, answer = 500, None
        with suppress(Exception):  # whatever it is, it is the candidate's failure
            body = {**orjson.loads(copy["body"]), "stream": False}
            for name in ("stream_options", "timeout"):  # when its client wants it says nothing of the model
                body.pop(name, None)
            async with asyncio.timeout(COPY_S):
                got = await ask(self.app, copy["path"], body, Caller(), "canary")
            status, answer = got.status, got.body
        if (one := pair(copy, status, answer, time.perf_counter() - began)) is None:
            return
        if copy["status"] == 200 and copy["first_s"] is not None:
            self.firsts = [*self.firsts, copy["first_s"]][-FIRSTS:]
        self.tally = self.tally.with_pair(one, self.order.budget)
        if self.tally.word != "wait":
            self._decided.set()

    def _back(self, why: str) -> None:
        self.state = "back"
        self.tally = replace(self.tally, word="back", why=why)
        log("canary.back", why=why, **self._counts())
        self.write()
        self.end()

    # ------------------------------------------------------------------ after it

    def promoted(self) -> None:
        """This is the user's service now: its answers are watched, as many as there were pairs."""
        self.state, self.watch = "watching", Watch(late_s=self.order.budget.slower * late_after(self.firsts))
        log("canary.promoted", late_s=self.watch.late_s, **self._counts())
        self.mirror.ended = self._ended
        self.write()

    def _ended(self, failed: bool, first_s: float, left: bool) -> None:
        """Who leaves before an answer is late has had other reasons."""
        assert self.watch is not None
        if left and not failed and first_s <= self.watch.late_s:
            return
        self.watch = self.watch.with_answer(failed, None if failed else first_s, self.order.budget)
        if self.watch.word != "wait":
            self._watched()

    def _watched(self) -> None:
        """The watch has ended."""
        assert self.watch is not None
        self.mirror.ended = None
        self.state = "settled" if self.watch.word == "promote" else "going back"
        log("canary." + self.state.replace(" ", "_"), why=self.watch.why or None, answers=self.watch.answers)
        if self.watch.word == "back":
            self.tasks.append(asyncio.create_task(self._go_back()))

    async def _go_back(self) -> None:
        """As often as it takes: another holds the service, memory is short, the command is killed."""
        wait_s, code = AGAIN_S, None
        while code != 0:
            code, self.hindered = await self._command(self.order.back)
            if code in FINAL:
                self.state = f"stays: {self.hindered}"
                log("canary.stays", why=self.hindered)
                return
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, SELDOM_S)

    def rest(self) -> None:
        """The service ends: nothing is decided any more."""
        self.mirror.ended = None
        self.resting = True

    # ------------------------------------------------------------------ both

    async def _take_place(self) -> str | None:
        """Why it could not, after some tries."""
        for attempt in range(TRIES):
            await asyncio.sleep(AGAIN_S if attempt else 0)
            code, why = await self._command(self.order.promote)
            if code == 0:
                return None
        return why

    async def _command(self, words: Sequence[str]) -> tuple[int | None, str | None]:
        """Its exit code, None where it could not be started, and why it did not succeed."""
        try:
            code, output = await run_command(words)
        except OSError as e:  # no memory, no process
            code, output = None, b""
            why = e.strerror or str(e)
        else:
            why = f"exit code {code}"
        if code == 0:
            return code, None
        with suppress(orjson.JSONDecodeError, KeyError, TypeError):
            why = orjson.loads(output)["error"]["message"]
        log("canary.command_failed", why=why)
        return code, why

    def _counts(self) -> dict[str, Any]:
        names = ("pairs", "failed", "slow", "compared")
        return {name: getattr(self.tally, name) for name in names}

    async def _keep(self) -> None:
        """Write what was counted; an engine that is down is a decision of its own: no answer comes of it."""
        up_at = time.monotonic()
        while True:
            await asyncio.sleep(WRITE_S)
            self.write()
            up_at = time.monotonic() if self.is_up() else up_at
            if time.monotonic() - up_at > DOWN_S:
                self._down()
                up_at = math.inf

    def _down(self) -> None:
        if self.state == "shadowing":
            self._back(DOWN)
        elif self.watch and self.watch.word == "wait" and not self.resting:
            self.watch = replace(self.watch, word="back", why=DOWN)
            self._watched()

    def document(self) -> dict[str, Any]:
        return {
            "candidate": self.order.candidate,
            "budget": asdict(self.order.budget),
            "state": self.state,
            "tally": asdict(self.tally),
            "first_s": self.firsts,
            "watch": asdict(self.watch) if self.watch else None,
            "hindered": self.hindered,
            "pid": os.getpid(),
        }

    def write(self) -> None:
        """A full disk is no end: a restart then begins with fewer pairs."""
        data = orjson.dumps(self.document())
        if data != self._written:
            with suppress(OSError):
                write_durably(self.folder / FILE, data)
                self._written = data

    def close(self) -> None:
        self.write()
        for task in self.tasks:
            task.cancel()
