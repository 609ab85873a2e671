"""`rollback`: the service goes back to the artefact that stood before, under the same name, on the same port.

Nothing is trained, judged or written again: the artefact lies on disk and has passed its gate. The newer
service serves until the older model answers too; what it has begun it ends within its drain time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...artefact import Artefact, Watch, enter_own_memory
from ...errors import CheckFailed, Lacking, Refused, Where, WrongUse, writing_in
from ...hardware import free_bytes
from ...older import read_as
from ...recipe import load
from ...serving import ServeSettings, Service, check_port, find, promote, start
from ...trust import keys_of
from ...units import show_bytes
from ..erasing.order import folder_of
from ..known import chosen, entries
from ..planning.checks import on_port
from ..record.acts import written
from ..record.promotions import Promotion, promoting, publishing, read_promotions, up_to, write_promotions
from ..record.workdir import LoggedWatch, Workdir
from ..service.canary import end_canary
from ..service.services import api_key

OF_THE_MODEL = (
    *("engine", "mode", "threads", "max_model_len", "max_num_seqs", "max_num_batched_tokens", "cache_bytes"),
    *("kv_precision", "prefix_cache", "speculative", "draft", "adapters", "route", "default_temperature"),
    *("engine_python", "engine_args", "platform", "launch", "fingerprint", "source"),
)  # settings that go back with it; who may ask, and how much, stays as it is now
NOTHING_BEFORE = "only models that this version published are remembered, and a model that went back is not"


def rollback(
    name: str | None = None,
    *,
    workdir: Path | None = None,
    leaving: str | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """{"run", "service": {"url", "pid"}, "artefact", "before", "wall_s", "drained_s"}; hashes of artefacts.

    `wall_s`: until the older model answers on the service's port; `drained_s`: until the newer one had ended.
    `leaving`: hash of the artefact that is to go; where another serves, that is done already.
    Raises WrongUse where there is nothing to go back to, CheckFailed where the artefact has changed, Refused
    where its rows were erased, Lacking where it is gone or there is no memory for both; the service is then
    as it was.
    """
    began = time.monotonic()
    entry = the_run(name, workdir)
    place = Workdir(Path(entry["workdir"]), keys_of(entry["trust"]))
    if place.keys:
        enter_own_memory()
    logged = LoggedWatch(place, watch or Watch())
    with publishing(place), writing_in(place.folder):
        old = find(place.service)
        if old and (left := left_already(place, old, leaving)):
            return stands(entry["run"], old, left, began)
        if old and (sent := end_canary(place, logged)) and leaving is None:
            return stands(entry["run"], old, sent, began)
        stack = stack_of(place, old)
        before, newer = stack[-2], stack[-1].hash
        artefact = opened_again(place, before)
        check_room(before, artefact, old, entry["run"])
        artefact.check()
        now = in_place_of(before, stack[-1])
        with promoting(place, stack, [*stack[:-2], now, replace(stack[-1], left=True)]):
            service = promote_again(now, artefact, entry, place, old)
        forget_left(place, [*stack[:-2], now])
        wall_s = time.monotonic() - began
    written(logged, "service.rolled_back", artefact=before.hash, before=newer)
    done = {"artefact": before.hash, "before": newer, "wall_s": round(wall_s, 3)}
    logged.log("service.rolled_back", url=service.url, pid=service.pid, **done)
    if old:
        old.stop(successor=True)
    drained_s = round(time.monotonic() - began - wall_s, 3)
    address = {"url": service.url, "pid": service.pid}
    return {"run": entry["run"], "service": address, **done, "drained_s": drained_s}


def stands(run: str, service: Service, candidate: str, began: float) -> dict[str, Any]:
    """A candidate was on its way: the model before it has never left."""
    address = {"url": service.url, "pid": service.pid}
    done = {"artefact": service.fingerprint, "before": candidate, "drained_s": 0.0}
    return {"run": run, "service": address, **done, "wall_s": round(time.monotonic() - began, 3)}


def left_already(place: Workdir, live: Service, leaving: str | None) -> str | None:
    """The hash that an earlier call has gone back from, killed before it had noted so; None: none has."""
    stack = read_promotions(place)
    half_done = len(stack) > 1 and stack[-1].left and live.fingerprint == stack[-2].hash
    if half_done:
        forget_left(place, stack[:-1])
    if leaving is not None:
        return leaving if live.fingerprint != leaving else None
    return stack[-1].hash if half_done else None


def forget_left(place: Workdir, stack: Sequence[Promotion]) -> None:
    """Where the disk is full the next call finds out: `left` is written."""
    with suppress(OSError):
        write_promotions(place, stack)


def the_run(name: str | None, workdir: Path | None) -> dict[str, Any]:
    """The run of that name. Raises WrongUse where none is named and there are several."""
    runs = entries(workdir)
    if name is None and len(runs) > 1:
        raise WrongUse(
            "rollback.which", "there are several runs: which one goes back?", where=Where(field="RUN"),
            hint=f"steelyard rollback RUN, one of {', '.join(run['run'] for run in runs)}",
        )  # fmt: skip
    return chosen(name, workdir)


def stack_of(place: Workdir, live: Service | None) -> list[Promotion]:
    """What the service has had, two at least; the last is what it has.

    Raises WrongUse where there is less."""
    stack = read_promotions(place)
    if live is not None:
        stack = up_to(stack, live.fingerprint)
    if len(stack) < 2 or (live is not None and stack[-1].hash != live.fingerprint):
        raise WrongUse(
            "rollback.nothing_before", "there is no model to go back to", where=Where(str(place.service)),
            why=NOTHING_BEFORE if stack else "this run has published no model",
            hint="steelyard up RECIPE makes a model and publishes it",
        )  # fmt: skip
    return stack


def in_place_of(before: Promotion, newer: Promotion) -> Promotion:
    """The older model where the newer one stands: its address, its name, who may ask.

    A setting that came after the older model was published has its default then, not the newer model's."""
    kept = {name: value for name, value in newer.settings.items() if name not in OF_THE_MODEL}
    own = {name: before.settings[name] for name in OF_THE_MODEL if name in before.settings}
    settings = kept | {"fingerprint": before.hash} | own
    return replace(before, settings=settings, keyed=newer.keyed, host=newer.host, port=newer.port, left=False)


def opened_again(place: Workdir, before: Promotion) -> Artefact:
    """The artefact by its manifest, not a byte of it checked."""
    folder = place.store.folder / before.folder
    if not folder.is_dir():
        raise gone(before, folder)
    artefact = place.store.open(folder)
    if artefact.hash != before.hash:
        raise CheckFailed(
            "rollback.changed", f"{folder.name} is not the model that stood before",
            where=Where(str(folder)), why=f"its hash is {artefact.hash}, and was {before.hash}",
            hint="steelyard up RECIPE makes the model again",
        )  # fmt: skip
    return artefact


def gone(before: Promotion, folder: Path) -> Refused | Lacking:
    if before.hash in erased_hashes():
        return Refused(
            "rollback.erased", "the model that stood before has learnt rows that were erased since",
            where=Where(str(folder)), why="it was removed with them, and does not come back",
            hint="steelyard up RECIPE trains without these rows",
        )  # fmt: skip
    return Lacking(
        "rollback.gone", "the model that stood before is not on this disk any more",
        where=Where(str(folder)), why="its folder was removed",
        hint="steelyard up RECIPE, with the recipe that it was made by, makes it again",
    )  # fmt: skip


def erased_hashes() -> set[str]:
    """Of all artefacts that an erasure has removed."""
    hashes: set[str] = set()
    for proof in folder_of("proofs").glob("*.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            removed: Sequence[Any] = json.loads(proof.read_text(encoding="utf-8"))["removed"]
            hashes |= {one["hash"] for one in removed if one["hash"]}
    return hashes


def check_room(before: Promotion, artefact: Artefact, old: Service | None, run: str) -> None:
    """Raises Lacking where two models do not fit into the memory: the newer one ends only afterwards."""
    needed, free = max(before.memory_bytes, artefact.bytes), free_bytes()
    if needed <= free:
        return
    hint = "free memory, then run the same command again"
    if old is not None:
        hint = f"steelyard stop {run}, then the same command: nothing answers for some seconds"
    raise Lacking(
        "rollback.memory", f"going back needs {show_bytes(needed)} of memory, {show_bytes(free)} are free",
        why="both models are loaded until the older one answers", hint=hint,
    )  # fmt: skip


def promote_again(
    before: Promotion, artefact: Artefact, entry: dict[str, Any], place: Workdir, old: Service | None
) -> Service:
    """The older model as a service of its own, in the place of the newer one."""
    settings = read_as(ServeSettings, {**before.settings, "api_key": key_of(before, entry)})
    if on_port(old, before.port) is None:
        check_port(before.host, before.port)
    service = start(artefact.path(), settings)
    try:
        return promote(service, before.host, before.port, place.service, after=old, verdict=before.verdict)
    except BaseException:
        service.stop()
        raise


def key_of(before: Promotion, entry: dict[str, Any]) -> str | None:
    """The recipe's key: none stands in what is remembered. Raises Refused where it cannot be had."""
    if not before.keyed:
        return None
    path = Path(entry.get("recipe") or "")
    key = api_key(load(path)) if path.is_file() else None
    if key is None:
        raise Refused(
            "rollback.no_key", "the service asked for a key, and its recipe names none now",
            where=Where(str(path), field="serve.api_key"),
            hint="mend serve.api_key (export the variable that it names), then run the same command again",
        )  # fmt: skip
    return key
