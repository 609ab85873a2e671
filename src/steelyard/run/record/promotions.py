"""Which artefacts a run's service has had, and how each was started: what `rollback` goes back to.

service/promotions.json in the work folder, newest last. A stack: going back takes the last one off. No key
stands there, only that one was asked for.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...artefact import write_durably
from ...clock import utc_now
from ...errors import Lacking, Problem, Where
from ...older import read_as
from .workdir import Workdir

FILE = "promotions.json"
CANARY = "canary.json"  # the candidate that answers copies, beside it
KEEP = 3  # models on disk, each as large as the one that is served
WAIT_S, LOOK_S = 15.0, 0.1  # for another that publishes: a start and a hand-over
STATE_FOLDER_MODE = 0o700


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """One artefact that was published."""

    at: str  # UTC
    hash: str
    folder: str  # its name among the run's artefacts
    settings: dict[str, Any]  # of ServeSettings, less the key
    keyed: bool  # a key was asked for; it stands in the recipe
    host: str
    port: int
    verdict: str | None = None  # hash of the gate's
    verdict_folder: str | None = None  # its name among the run's artefacts; not noted by older versions
    memory_bytes: int = 0  # of its engines, with their caches full
    left: bool = False  # going back from it has begun; where the one below it serves, that is done


def promotion(settings: dict[str, Any], **more: Any) -> Promotion:
    """One made now, of settings that may hold a key."""
    at = utc_now()
    keyed = settings.get("api_key") is not None
    return Promotion(at=at, settings={**settings, "api_key": None}, keyed=keyed, **more)


def read_promotions(place: Workdir) -> list[Promotion]:
    """Oldest first, from the last that cannot be read on: going back passes over none. None where nothing
    is written there."""
    stack: list[Promotion] = []
    with suppress(OSError, ValueError, TypeError, KeyError):
        for entry in reversed(json.loads((place.service / FILE).read_bytes())["promotions"]):
            stack.insert(0, read_as(Promotion, entry))
    return stack


def write_promotions(place: Workdir, promotions: Sequence[Promotion]) -> None:
    place.service.mkdir(mode=STATE_FOLDER_MODE, exist_ok=True)
    document = {"v": 1, "promotions": [asdict(one) for one in promotions[-KEEP:]]}
    write_durably(place.service / FILE, json.dumps(document, indent=1, ensure_ascii=False).encode())


@contextmanager
def promoting(place: Workdir, before: Sequence[Promotion], meant: Sequence[Promotion]) -> Iterator[None]:
    """`meant` is written before the place changes hands: who is killed on the way, or finds the disk full,
    has left what one can go back by, since a stack is cut to what serves. As it was where that is refused."""
    write_promotions(place, meant)
    try:
        yield
    except Problem:
        with suppress(OSError):
            write_promotions(place, before)
        raise


def pushed(promotions: Sequence[Promotion], new: Promotion) -> list[Promotion]:
    """With `new` on top; the same artefact, published again, takes its own place."""
    rest = list(promotions)
    while rest and rest[-1].hash == new.hash:
        rest.pop()
    return [*rest, new][-KEEP:]


def up_to(promotions: Sequence[Promotion], served: str | None) -> list[Promotion]:
    """Cut to the one that is served: who was killed while one took the other's place has not written so."""
    places = [i for i, one in enumerate(promotions) if one.hash == served]
    return list(promotions[: places[-1] + 1] if places else promotions)


def referred(place: Workdir) -> set[str]:
    """Names of the folders that going back needs, of artefacts and of engines' copies."""
    names: set[str] = set()
    for one in [*read_promotions(place), *candidates(place)]:
        texts = [*one.settings.values(), *(one.settings.get("adapters") or {}).values()]
        names |= {one.folder} | judged_in(place, one)
        names |= {Path(t).name for t in texts if isinstance(t, str) and t.startswith("/")}
    return names


def judged_in(place: Workdir, one: Promotion) -> set[str]:
    """The folder of the verdict on it: an approval and a receipt of answers name it by its hash."""
    if one.verdict_folder:
        return {one.verdict_folder}
    found = set()
    for manifest in (place.folder / "artefacts").glob("verdict-*/manifest.json") if one.verdict else ():
        with suppress(OSError, ValueError, KeyError):
            if json.loads(manifest.read_bytes())["hash"] == one.verdict:
                found.add(manifest.parent.name)
    return found


def candidates(place: Workdir) -> list[Promotion]:
    """What may be published next: the one that answers copies of requests."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return [read_as(Promotion, json.loads((place.service / CANARY).read_bytes())["promotion"])]
    return []


@contextmanager
def publishing(place: Workdir, wait_s: float = WAIT_S) -> Iterator[None]:
    """Change alone which model a run's service has. Raises Lacking where another takes longer than that."""
    place.service.mkdir(mode=STATE_FOLDER_MODE, exist_ok=True)
    path = place.service / ".lock"
    end = time.monotonic() + wait_s
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > end:
                    raise Lacking(
                        "service.locked", "another steelyard is changing the model of this service",
                        where=Where(str(path)), hint="wait for it, then run the same command again",
                    ) from error  # fmt: skip
                time.sleep(LOOK_S)
        yield
