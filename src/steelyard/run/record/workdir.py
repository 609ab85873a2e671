"""The folder of one recipe's runs: its lock, its log, its artefacts, its plan, its report.

runs/<name>/  .lock  log.jsonl  plan.json  run.json  report.html  artefacts/  service/
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...artefact import Place, Progress, Store, Watch, check_private
from ...clock import utc_now
from ...errors import Lacking, Where, from_os_error
from ...recipe import Recipe
from ...trust import SIMULATED, append_log, keys_of

LOOKS, LOOK_S = 5, 0.05


@dataclass(frozen=True, slots=True)
class Workdir:
    """Paths of one work folder; `keys` seal what is written below it."""

    folder: Path
    keys: Any = None

    @property
    def simulated(self) -> bool:
        """Of a rehearsal, which vouches for nothing."""
        return bool(self.keys and self.keys.simulated)

    @property
    def store(self) -> Store:
        return Store(self.folder / "artefacts", self.keys)

    @property
    def plan(self) -> Path:
        return self.folder / "plan.json"

    @property
    def refers(self) -> Path:
        """Which artefacts the last run refers to (run.json)."""
        return self.folder / "run.json"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"

    @property
    def service(self) -> Path:
        return self.folder / "service"


Trust = tuple[str, str | None, str, tuple[str, ...], str]


def trust_of(recipe: Recipe) -> Trust:
    """What `keys_of` asks for: level, key file, the folder that paths start from, recipients and cipher."""
    trust = recipe.trust
    return trust.level, trust.key_file, str(recipe.root), trust.recipients, trust.cipher


def opened(recipe: Recipe, chosen: Path | None) -> Workdir:
    """The work folder under the recipe's trust level. Raises Refused where the level cannot be had."""
    keys = keys_of(trust_of(recipe))
    if keys:
        check_private(0)
    return workdir_of(recipe, chosen, keys)


def workdir_of(recipe: Recipe, chosen: Path | None, keys: Any = None) -> Workdir:
    """The chosen folder, or `runs/<name>` beside the recipe; made, and seen to be writable."""
    folder = (chosen or recipe.root / "runs" / recipe.name).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.write_bytes(b"x")
        probe.unlink()
    except NotADirectoryError as error:
        raise Lacking(
            "disk.denied",
            f"{folder} cannot be a folder",
            where=Where(str(folder)),
            why="a file stands in its place",
            hint="choose another folder with --workdir",
        ) from error
    except OSError as error:
        raise from_os_error(error) or error from error
    return Workdir(folder, keys)


@contextmanager
def locked(workdir: Workdir) -> Iterator[None]:
    """Hold the folder for this process; a dead run's lock is void, since the kernel drops it."""
    path = workdir.folder / ".lock"
    with path.open("a+", encoding="utf-8") as file:
        try:
            lock(file.fileno())
        except BlockingIOError as error:
            file.seek(0)
            raise Lacking(
                "run.locked",
                f"another steelyard (process {file.read().strip() or 'unknown'}) works in {workdir.folder}",
                where=Where(str(path)),
                why="two runs in one folder would write over each other",
                hint="wait for it, stop it, or choose another folder with --workdir",
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def lock(fd: int) -> None:
    """Take the lock. `status` holds it for a moment when it looks: that is no other run."""
    for _ in range(LOOKS):
        with suppress(BlockingIOError):
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(LOOK_S)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


class LoggedWatch(Watch):
    """Events into the work folder's log (sealed line by line at `guarded`), progress to the front."""

    def __init__(self, workdir: Workdir, front: Watch) -> None:
        self.workdir, self.front = workdir, front

    @property
    def stop(self) -> bool:  # type: ignore[override]
        return self.front.stop

    @property
    def log_file(self) -> Path:  # type: ignore[override]
        return self.workdir.log

    def log(self, event: str, **fields: Any) -> None:
        self.write(event, **fields)
        self.front.log(event, **fields)

    def write(self, event: str, **fields: Any) -> None:
        """Into the file alone: what a person would not want on the terminal."""
        entry = {"at": utc_now(), "event": event} | fields
        if self.workdir.simulated:
            entry["trust"] = SIMULATED
        line = json.dumps(entry, ensure_ascii=False, default=str)
        append_log(self.workdir.log, line, self.workdir.keys)

    def at(self, place: Place) -> None:
        self.front.at(place)

    def ask(self, question: str, answers: tuple[str, ...], default: str) -> str:
        answer = self.front.ask(question, answers, default)
        self.write("run.asked", question=question, answer=answer)
        return answer

    def show(self, progress: Progress, closed: bool = False) -> None:
        self.front.show(progress, closed)
