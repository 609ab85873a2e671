"""`refresh`: rated answers become rows, the model is trained again on them and on all of the recipe's own,
judged, compared with what serves, and takes its place; or what stands goes on, and the outcome says why.

A run like any other (`up`) with a source more: what it does is reused, resumed, erased and sealed as ever.
One that was stopped goes on with the rows that it had begun with, as long as each of them still stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...artefact import Watch, enter_own_memory
from ...clock import utc_now
from ...data import Weighed
from ...errors import CheckFailed, Lacking, Problem, Where
from ...recipe import Recipe
from ...serving import find, read_tally
from ..path.gate import REFUSALS as JUDGED
from ..path.run import Run
from ..record.acts import written
from ..record.alone import alone
from ..record.feedback import feedback_folder, weighed_here
from ..record.rated import (
    ACCEPTED,
    STATE,
    TRYING,
    accept,
    drop_tried,
    folder_of,
    read,
    read_rated,
    write,
    write_rated,
)
from ..record.workdir import LoggedWatch, Workdir, opened
from ..service.canary import canary_of
from ..start import up
from .against import against_standing, check_gain, check_no_loss

# promoted | canary (it answers copies) | refused (by the gate, or worse than what serves) | too_few
DONE = ("promoted", "canary", "refused", "too_few")
REFUSALS = (*JUDGED, "refresh.no_gain", "refresh.worse")  # codes of a word on what the rows have taught


def refresh(
    recipe: Recipe, *, workdir: Path | None = None, watch: Watch | None = None, language: str = "en"
) -> dict[str, Any]:
    """One refresh, now: {"run", "at", "state", "ratings", "rows", "new_rows", "compared", "service", "why"}.

    `state` is one of DONE; `ratings` the account: read = kept + dropped. Raises WrongUse for a folder or a
    line that is none, before anything is trained; Stopped, and the Problem of a step, after which the same
    call goes on.
    """
    feedback_folder(recipe)
    place = opened(recipe, workdir)
    if place.keys:
        enter_own_memory()
    logged = LoggedWatch(place, watch or Watch())
    lock = lock_of(place)
    with alone(lock, taken(lock)):
        if (state := settle(place)).get("last", {}).get("state") == "canary":
            why = "the candidate of the last refresh still answers copies of requests"
            return state["last"] | {"why": why}
        weighed = weighed_here(recipe, place)
        rows = rows_to_try(place, weighed)
        tried = set(read(place, STATE).get("tried") or (r["hash"] for r in read_rated(place, ACCEPTED)))
        new = len({row["hash"] for row in rows} - tried)
        begun = {"at": utc_now(), "ratings": weighed.account, "rows": len(rows), "new_rows": new}
        assert recipe.refresh is not None
        if new < recipe.refresh.least:
            drop_tried(place)
            why = f"{new} new rows, at least {recipe.refresh.least} are wanted"
            return noted(place, logged, begun | {"state": "too_few", "why": why}, keep=True)
        write_rated(place, TRYING, rows)
        logged.log("refresh.begun", rows=len(rows), new=new)
        return tried_out(recipe, workdir, place, logged, begun, rows, language)


def tried_out(
    recipe: Recipe, workdir: Path | None, place: Workdir, watch: LoggedWatch, begun: dict[str, Any],
    rows: Sequence[dict[str, Any]], language: str,
) -> dict[str, Any]:  # fmt: skip
    """Trained, judged, compared, published; or not."""
    compared: dict[str, Any] = {}

    def before(run: Run) -> None:
        learnt = {row["hash"] for row in read_rated(place, ACCEPTED)}
        tried = read_rated(place, TRYING)  # less what was erased meanwhile
        compared.clear()
        compared.update(against_standing(run, [row for row in tried if row["hash"] not in learnt]))
        check_no_loss(compared)
        check_gain(compared)

    try:
        outcome = up(
            recipe, workdir=workdir, watch=watch.front, language=language, rated=TRYING, before=before
        )
    except CheckFailed as failure:
        drop_tried(place)
        if failure.code not in REFUSALS:  # a damaged file, a loss that is no number: no word on the rows
            watch.log("refresh.not_done", code=failure.code)
            raise
        refused = {
            "state": "refused",
            "why": failure.message.partition(" (")[0],  # behind it a row may be quoted
            "code": failure.code,
            "compared": compared or None,
        }
        return noted(place, watch, begun | refused | {"tried": [row["hash"] for row in rows]})
    except Problem as problem:
        watch.log("refresh.not_done", code=problem.code)
        raise
    service = outcome.service or {}
    state = "canary" if "canary" in service else "promoted"
    if state == "promoted":
        accept(place)
    serves = canary_of(place) if state == "canary" else find(place.service)
    done = {"run": outcome.run, "state": state, "compared": compared or None, "service": service,
            "hash": serves.fingerprint if serves else outcome.record("serve").hash}  # fmt: skip
    return noted(place, watch, begun | done | {"tried": [row["hash"] for row in rows]})


def noted(place: Workdir, watch: LoggedWatch, outcome: dict[str, Any], keep: bool = False) -> dict[str, Any]:
    """Into state.json; `keep`: the last refresh that trained stays there, and this look beside it."""
    before = read(place, STATE)
    told = {name: value for name, value in outcome.items() if name != "tried"}
    if keep:
        write(place, STATE, {**before, "looked": told})
    else:
        write(place, STATE, {"v": 1, "last": told, "looked": told, "tried": outcome["tried"]})
        how = "refused" if outcome["state"] == "refused" else "done"
        written(watch, "model.refreshed", artefact=outcome.get("hash"), outcome=how, rows=outcome["rows"])
    watch.log("refresh.done", state=outcome["state"], rows=outcome["rows"], new=outcome["new_rows"])
    return told


def rows_to_try(place: Workdir, weighed: Weighed) -> list[dict[str, Any]]:
    """Those of a refresh that was stopped, where each of them still stands; else all that count now."""
    now = [asdict(row) for row in weighed.rows]
    before = read_rated(place, TRYING)
    known = {(row["ability"], row["kind"], row["hash"]) for row in now}
    if before and all((row["ability"], row["kind"], row["hash"]) in known for row in before):
        return before
    return now


# ------------------------------------------------------------------ a candidate that has come to something
# since


def settle(place: Workdir) -> dict[str, Any]:
    """The state of the last refresh as it is now: its candidate may have taken the place, or gone."""
    state = read(place, STATE)
    last = state.get("last") or {}
    if last.get("state") != "canary":
        return state
    service = find(place.service)
    if service is not None and service.fingerprint == last.get("hash"):
        accept(place)
        last = last | {"state": "promoted"}
    elif canary_of(place) is None:
        drop_tried(place)
        last = last | {"state": "refused", "why": f"its canary has ended: {ended(place)}"}
    else:
        return state
    state = state | {"last": last, "looked": last}
    write(place, STATE, state)
    return state


def ended(place: Workdir) -> str:
    counted = read_tally(place.service) or {}
    why = (counted.get("tally") or {}).get("why") or (counted.get("watch") or {}).get("why")
    return str(why or counted.get("state") or "nobody knows why")


def refreshed(recipe: Recipe, *, workdir: Path | None = None) -> dict[str, Any]:
    """Where it stands: {"last", "looked", "waiting"}; `waiting`: a refresh that was stopped, and goes on."""
    feedback_folder(recipe)
    place = opened(recipe, workdir)
    state = settle(place)
    last = state.get("last") or {}
    waiting = bool(read_rated(place, TRYING)) and last.get("state") != "canary"
    return {"last": state.get("last"), "looked": state.get("looked"), "waiting": waiting}


def lock_of(place: Workdir) -> Path:
    folder_of(place).mkdir(mode=0o700, exist_ok=True)
    return folder_of(place) / ".lock"


def taken(lock: Path) -> Lacking:
    return Lacking(
        "refresh.locked", "another refresh of this run is under way", where=Where(str(lock)),
        hint="wait for it; steelyard logs RUN tells how far it is",
    )  # fmt: skip
