"""An attempt on a node. What its keeper writes lies in the shared folder; the rest the node tells."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ....artefact import write_durably
from ..attempt import exit_of
from ..keeper import UNREAD_S, newest_word

# Beside the attempts of a job: which of them owns it, and whether it is to end. A file for each lease
# (owner.json.3): what a driver writes whose lease is over, nobody reads.
OWNER = "owner.json"
GONE_S = UNREAD_S + 10.0  # after its job was taken from it: an attempt of which nobody hears has ended


class Node(Protocol):
    lost: bool
    ahead_s: float | None  # our monotonic clock before its own

    def act(self, folder: Path, what: str, epoch: int) -> None: ...


@dataclass(slots=True)
class FarAttempt:
    """`told`: its last state, as there.look has it."""

    job: str
    seq: int
    folder: Path
    devices: tuple[int, ...]
    node: Node
    epoch: int  # of the driver that has it
    end_s: float | None = None
    begun: bool = False  # the node says so
    failed: str | None = None  # why it never began
    told: dict[str, Any] = field(default_factory=dict)
    taken_s: float | None = None
    woken_s: float = 0.0

    @property
    def report(self) -> Path:
        return self.folder / "report.jsonl"

    @property
    def ahead_s(self) -> float | None:
        return self.node.ahead_s

    def alive(self) -> bool:
        """Unknown is alive: until its end is told or written, or its job was taken from it and its node is
        lost, or it had time enough to see that. Even so the lock of the job decides."""
        if self.failed is not None or self.told.get("alive") is False:
            return False
        if (self.folder / "exit.json").exists():
            return False
        taken_s = None if self.taken_s is None else time.monotonic() - self.taken_s
        return taken_s is None or not (self.node.lost or taken_s > GONE_S)

    def exit(self) -> tuple[int, str]:
        if self.failed is not None:
            return 1, f"heartbeat lost: {self.failed}"
        code, words = self.told.get("exit") or exit_of(self.folder)
        return int(code), str(words)

    def is_stopped(self) -> bool:
        """By what was asked after it was let go on last."""
        return bool(self.told.get("stopped")) and self.told["asked_s"] > self.woken_s

    def ask_to_end(self) -> None:
        """Its keeper reads that, whether or not the node can be reached."""
        self.let_go_on()
        own(self.folder.parent, self.folder.name, self.epoch, ends=True)

    def kill(self) -> None:
        if self.taken_s is None:
            self.taken_s = time.monotonic()
            own(self.folder.parent, "", self.epoch)
            self._act("kill")

    def let_go_on(self) -> None:
        self.woken_s = time.monotonic()
        self._act("let_go_on")

    def ask_for_stacks(self) -> None:
        self._act("ask_for_stacks")

    def hold(self) -> None:
        self._act("hold")

    def release(self) -> None:
        self._act("release")

    def _act(self, what: str) -> None:
        self.node.act(self.folder, what, self.epoch)


def own(folder: Path, attempt: str, epoch: int, ends: bool = False) -> None:
    """From now on this attempt owns the job of the folder, and no other: with an empty name none does.

    So says the driver of this epoch; one of a later epoch that has spoken is believed instead."""
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / f"{OWNER}.{epoch}", json.dumps({"attempt": attempt, "ends": ends}).encode())


def owner_of(folder: Path) -> str:
    return word_of(folder)[0]


def word_of(folder: Path) -> tuple[str, bool]:
    """The attempt that owns the job, empty where none does; and whether it is to end."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        says, _ = newest_word(str(folder / OWNER), 0)
        return str(says["attempt"]), bool(says.get("ends"))
    return "", False


def claim(folder: Path, wanted: int | None, epoch: int) -> None:
    """A driver that takes over speaks for each job before it does anything else: what the one before it may
    still write counts no more. `wanted`: the decision by which the job runs; other attempts end.

    Another attempt than one of that decision can own the job only by a word that came after the journal's
    end, of a driver whose lease was over: the job is given back."""
    owner, ends = word_of(folder)
    if wanted is None:
        owner = ""
    elif owner and not owner.startswith(f"{wanted}-"):
        owner, ends = last_begun(folder, wanted), False
    own(folder, owner, epoch, ends and bool(owner))


def last_begun(folder: Path, wanted: int) -> str:
    begun = [order.parent.name for order in folder.glob(f"{wanted}-*/order.json")]
    return max(begun, key=lambda name: int(name.split("-")[1]), default="")
