"""The candidate against what serves now: the same rows asked of both, before it is published.

The gate compares a model with its base; a refresh must not lose what the standing model has. Rows: held-out
ones first, then training rows, which both have learnt; none that a rating has made, as what raters say must
not judge what raters have taught. Where nothing has been published yet, the gate alone decides.
"""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import CheckFailed, Lacking, Where
from ...gate import difference, score, verdict_on
from ...hardware import free_bytes
from ...older import read_as
from ...recipe import Recipe
from ...serving import ServeSettings, find, start
from ..path.run import Run
from ..record.promotions import Promotion, read_promotions
from ..record.workdir import Workdir
from ..service.services import api_key

LOOKS = (1, 4)  # times gate.rows: more rows while it is undecided
CONFIDENCE = 0.95  # of each of both looks; 90 % over them
CONCURRENCY = 4  # users of the standing service are asking it too
RATED_ROWS = 200
MOST_FAILED = 0.1  # of the rows, without an answer of one of both


def against_standing(run: Run, rated: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """{"standing", "abilities": {name: difference}, "rated": {"rows", "before", "after"}}; {} without one.

    Raises Lacking where they cannot be compared.
    """
    recipe, url = run.ready.recipe, run.candidates.url
    assert url is not None and recipe.refresh is not None
    with standing_url(run.ready.workdir, recipe) as standing:
        if standing is None or standing.hash == run.artefacts["compressed"].hash:
            return {}
        both = (standing.url, standing.key), (url, api_key(recipe))
        own, size = own_rows(run), recipe.gate.rows
        for look in LOOKS:
            rows = [row for part in own.values() for row in part[: size * look]]
            abilities = compared(*both, rows)
            states = {a: verdict_on(one, recipe.refresh.tolerance) for a, one in abilities.items()}
            if "undecided" not in states.values() or len(rows) == sum(map(len, own.values())):
                break
        return {
            "standing": standing.hash,
            "tolerance": recipe.refresh.tolerance,
            "abilities": {a: one.as_json() | {"verdict": states[a]} for a, one in abilities.items()},
            "rated": rated_prompts(*both, rated, own),
        }


# ------------------------------------------------------------------ the rows


def own_rows(run: Run) -> dict[str, list[dict[str, Any]]]:
    """Rows by ability that nobody rated, held-out ones first. Made ones where an ability has no others: it is
    compared by what it has."""
    dataset, recipe = run.artefacts["dataset"].path(), run.ready.recipe
    compares = {name: gate.compare for name, gate in recipe.gate.abilities.items()}
    rows: dict[str, list[dict[str, Any]]] = {}
    made: dict[str, list[dict[str, Any]]] = {}
    for name in ("test.jsonl", "train.jsonl"):
        for row in lines_of(dataset / name):
            if (name == "train.jsonl" and is_rated(row)) or not askable(row):
                continue
            row["id"] = f"{name}:{row['id']}"
            row["compare"] = scored_as(row.get("compare") or compares.get(row["ability"]))
            (made if row.get("made") is True else rows).setdefault(row["ability"], []).append(row)
    return made | rows


def is_rated(row: Mapping[str, Any]) -> bool:
    """What raters say must not judge what raters have taught; a row that is held out has taught nothing."""
    source = Path(str(row["id"]).rpartition(":")[0]).name
    return row.get("made") is True and source.startswith("rated-")


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, "rb") as lines:
        yield from (json.loads(line) for line in lines if line.strip())


def askable(row: Mapping[str, Any]) -> bool:
    """A chat that ends with a right answer in text."""
    messages = row.get("messages") or []
    ends = len(messages) > 1 and messages[-1]["role"] == "assistant" and messages[-1].get("content")
    return bool(ends) and row.get("label") is not False


def scored_as(compare: str | None) -> str:
    """A judge is asked by the gate; here both answers are compared with the row's own."""
    return "chrf" if compare == "judge" else compare or "text"


# ------------------------------------------------------------------ asked of both

At = tuple[str, str | None]


def compared(old: At, new: At, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Difference an ability, of the rows that both answer. Raises Lacking where too few are."""
    before, after = (score(url, rows, key=key, concurrency=CONCURRENCY) for url, key in (old, new))
    pairs = [
        (a.ability, a.value, b.value)
        for a, b in zip(before.rows, after.rows, strict=True)
        if a.error is None and b.error is None
    ]
    asked, answered = (Counter(one.ability for one in before.rows), Counter(name for name, _, _ in pairs))
    for ability, count in asked.items():
        if answered[ability] < (1 - MOST_FAILED) * count:
            errors = [
                row.error for row in (*before.rows, *after.rows) if row.error and row.ability == ability
            ]
            raise Lacking(
                "refresh.not_compared",
                f"{count - answered[ability]} of {count} rows of {ability} had no answer of both models",
                where=Where(field="refresh"), why=errors[0],
                hint="is the service overloaded? steelyard refresh goes on from here",
            )  # fmt: skip
    return {
        ability: difference(
            [old for name, old, _ in pairs if name == ability],
            [new for name, _, new in pairs if name == ability],
            CONFIDENCE,
        )
        for ability in asked
    }


def rated_prompts(
    old: At, new: At, rated: Sequence[Mapping[str, Any]], own: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """How those rated prompts are answered, before and after, that what serves has not learnt: what the
    refresh was for.

    Texts are compared by likeness (chrF): a long answer is hardly ever the same to the letter.
    """
    compares = {ability: rows[0]["compare"] for ability, rows in own.items() if rows}
    chats = [one for one in rated if one["kind"] == "chats"][:RATED_ROWS]
    rows = [
        {
            **one["fields"],
            "ability": one["ability"],
            "compare": as_graded(compares.get(one["ability"], "text")),
        }
        for one in chats
    ]
    if not rows:
        return {"rows": 0}
    before, after = (
        score(url, rows, key=key, concurrency=CONCURRENCY).share().value for url, key in (old, new)
    )
    return {"rows": len(rows), "before": before, "after": after}


def as_graded(compare: str) -> str:
    return "chrf" if compare == "text" else compare


def check_gain(told: Mapping[str, Any]) -> None:
    """Raises CheckFailed where the rated prompts are answered no better than before."""
    rated = told.get("rated") or {"rows": 0}
    if rated["rows"] and rated["after"] <= rated["before"]:
        before, after = f"{rated['before']:.1%}", f"{rated['after']:.1%}"
        raise CheckFailed(
            "refresh.no_gain", f"the rated prompts are answered no better: {before} before, {after} now",
            where=Where(field="refresh"), why=f"{rated['rows']} of them were asked",
            hint="what stands goes on serving; more ratings, or more steps of training, may do",
        )  # fmt: skip


def check_no_loss(told: Mapping[str, Any]) -> None:
    """Raises CheckFailed where the candidate loses more than `refresh.tolerance`, or may lose it."""
    for ability, one in told.get("abilities", {}).items():
        if one["verdict"] == "passed":
            continue
        share, least = f"{one['value']:+.1%}", f"{one['low']:+.1%}"
        text = f"the refreshed model answers {ability} worse than what serves: {share} of {one['rows']} rows"
        if one["verdict"] == "undecided":
            text = (
                f"{one['rows']} rows do not show that the refreshed model answers {ability} as well as what"
                f" serves: {share}, at worst {least}"
            )
        raise CheckFailed(
            "refresh.worse", text, where=Where(field="refresh.tolerance"),
            why=f"more than {told['tolerance']:.0%} may not be lost",
            hint="what stands goes on serving; look at the ratings, or give the gate more rows",
        )  # fmt: skip


# ------------------------------------------------------------------ what serves now


class Standing:
    """Where the standing model is asked, and by which key."""

    def __init__(self, url: str, key: str | None, hash: str) -> None:
        self.url, self.key, self.hash = url, key, hash


@contextmanager
def standing_url(place: Workdir, recipe: Recipe) -> Iterator[Standing | None]:
    """The service itself where it takes our key over plain HTTP; else its artefact in a service for this
    alone."""
    service, stack = find(place.service), read_promotions(place)
    serve = recipe.serve
    if service and service.fingerprint and not (serve.keys or serve.tls or serve.sealed_prompts):
        yield Standing(service.url, api_key(recipe), service.fingerprint)
        return
    hash = service.fingerprint if service else stack[-1].hash if stack else None
    if hash is None and service is None:
        yield None  # nothing was published yet
        return
    last = next((one for one in reversed(stack) if one.hash == hash), None)
    if last is None or not (place.store.folder / last.folder).is_dir():
        raise Lacking(
            "refresh.not_there", "the model that serves is not there to be compared with the new one",
            where=Where(str(place.store.folder)),
            hint="steelyard up RECIPE publishes one that is; then run the same command again",
        )  # fmt: skip
    check_room(last)
    artefact = place.store.open(place.store.folder / last.folder)
    key = secrets.token_urlsafe(24)
    alone = start(artefact.path(), replace(read_as(ServeSettings, last.settings), api_key=key, **PLAIN))
    try:
        yield Standing(alone.url, key, last.hash)
    finally:
        alone.stop(now=True)


# Of a service that nobody else asks: on loopback, by one key, with nothing beside the model.
PLAIN: dict[str, Any] = {
    "keys": None, "tls_cert": None, "tls_key": None, "sealed_prompts": False, "replicas": 1, "scale": {},
    "access_log": False, "receipts": False,
}  # fmt: skip


def check_room(last: Promotion) -> None:
    if last.memory_bytes > (free := free_bytes()):
        raise Lacking(
            "refresh.memory", "the model that serves does not fit beside the new one to be compared with it",
            why=f"it needs {last.memory_bytes >> 20} MiB, {free >> 20} are free",
            hint="free memory, then run the same command again: all steps are reused",
        )  # fmt: skip
