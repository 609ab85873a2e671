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
from ..keeper import UNREAD_S

OWNER = "owner.json"  # beside the attempts of a job: which of them owns it, and whether it is to end
GONE_S = UNREAD_S + 10.0  # after its job was taken from it: an attempt of which nobody hears has ended


class Node(Protocol):
    lost: bool
    ahead_s: float | None  # our monotonic clock before its own

    def act(self, folder: Path, what: str) -> None: ...


@dataclass(slots=True)
class FarAttempt:
    """`told`: its last state, as there.look has it."""

    job: str
    seq: int
    folder: Path
    devices: tuple[int, ...]
    node: Node
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
        own(self.folder.parent, self.folder.name, ends=True)

    def kill(self) -> None:
        if self.taken_s is None:
            self.taken_s = time.monotonic()
            own(self.folder.parent, "")
            self.node.act(self.folder, "kill")

    def let_go_on(self) -> None:
        self.woken_s = time.monotonic()
        self.node.act(self.folder, "let_go_on")

    def ask_for_stacks(self) -> None:
        self.node.act(self.folder, "ask_for_stacks")

    def hold(self) -> None:
        self.node.act(self.folder, "hold")

    def release(self) -> None:
        self.node.act(self.folder, "release")


def own(folder: Path, attempt: str, ends: bool = False) -> None:
    """From now on this attempt owns the job of the folder, and no other: with an empty name none does."""
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / OWNER, json.dumps({"attempt": attempt, "ends": ends}).encode())


def owner_of(folder: Path) -> str:
    with suppress(OSError, ValueError, KeyError):
        return str(json.loads((folder / OWNER).read_text())["attempt"])
    return ""
