"""`canary`: how the candidate beside a service does; take it now, or send it away.

A candidate that has passed takes its own place by `canary --promote`, as a user would.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...artefact import Watch, enter_own_memory
from ...errors import Lacking, Where, WrongUse
from ...serving import Service, find, promote, read_tally
from ...trust import keys_of
from ..known import chosen
from ..record.acts import written
from ..record.promotions import (
    Promotion,
    candidates,
    promoting,
    publishing,
    pushed,
    read_promotions,
    up_to,
)
from ..record.workdir import LoggedWatch, Workdir
from ..service.canary import canary_of, end_canary, forget_canary, has_taken_place


def canary(
    name: str,
    *,
    workdir: Path | None = None,
    take: bool = False,
    end: bool = False,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """{"run", "state", "candidate", "budget", "tally", "watch", "hindered", "service"}.

    `state`: shadowing, watching (it has taken the place), settled, back, going back, ended (by hand, killed).
    `hindered`: why it has not gone back yet.
    `take`: it takes the place of the service now; `end`: it goes. Raises WrongUse where there is none.
    """
    entry = chosen(name, workdir)
    place = Workdir(Path(entry["workdir"]), keys_of(entry["trust"]))
    if place.keys:
        enter_own_memory()
    logged = LoggedWatch(place, watch or Watch())
    if take:
        with publishing(place):
            old = take_place(place, logged)
        if old:
            old.stop(successor=True)
    elif end:
        with publishing(place):
            if end_canary(place, logged) is None:
                raise none_here(place)
    counted = read_tally(place.service)
    if counted is None:
        raise none_here(place)
    service, candidate = find(place.service), canary_of(place)
    state = "ended" if counted["state"] == "shadowing" and candidate is None else counted["state"]
    address = {"url": service.url, "pid": service.pid} if service else None
    names = ("candidate", "budget", "tally", "watch", "hindered")
    return {"run": entry["run"], "state": state, **{n: counted.get(n) for n in names}, "service": address}


def take_place(place: Workdir, watch: Watch) -> Service | None:
    """The candidate has the service's port. The older service, which is to end: what it has begun it finishes
    within its drain time. None where there is none, or where an earlier call has come so far."""
    if has_taken_place(place):
        forget_canary(place)
        return None
    candidate, old, new = canary_of(place), find(place.service), candidates(place)
    if candidate is None or not new:
        raise none_here(place)
    before = old.fingerprint if old else None
    stack = up_to(read_promotions(place), before)
    with promoting(place, stack, pushed(stack, new[0])):
        promoted(candidate, old, new[0], place)
    forget_canary(place)
    written(watch, "service.promoted", artefact=new[0].hash, before=before)
    watch.log("canary.promoted", pid=candidate.pid, artefact=new[0].hash, before=before)
    return old


def promoted(candidate: Service, old: Service | None, new: Promotion, place: Workdir) -> Service:
    """Raises Lacking where the port is another's."""
    if not candidate.alive():
        raise Lacking(
            "canary.died", "the candidate has ended", where=Where(str(place.service)),
            hint="steelyard up RECIPE starts it again; what it has counted is kept",
        )  # fmt: skip
    return promote(candidate, new.host, new.port, place.service, after=old, verdict=new.verdict)


def none_here(place: Workdir) -> WrongUse:
    return WrongUse(
        "canary.none", "no candidate stands beside this service", where=Where(str(place.service)),
        hint="serve: {canary: true} in the recipe, then steelyard up RECIPE while a service of it runs",
    )  # fmt: skip
