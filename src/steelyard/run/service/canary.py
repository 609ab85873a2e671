"""A candidate beside the service that stands: begin, find, end. What it counts is the affair of serving."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from ...artefact import Watch, write_durably
from ...errors import Lacking
from ...hardware import free_bytes
from ...recipe import Canary
from ...serving import Service, find, shadow
from ...units import show_bytes
from ..record.acts import written
from ..record.promotions import CANARY, Promotion
from ..record.workdir import Workdir


def begin_canary(
    place: Workdir, run: str, canary: Canary, candidate: Service, old: Service, new: Promotion, watch: Watch
) -> dict[str, Any]:
    """The candidate lives on and answers copies; {"pid", "share", "requests"}. Raises Lacking."""
    check_memory(new)
    words = [sys.executable, "-m", "steelyard"]
    named = ["--workdir", str(place.folder), "--json"]
    budget = {name: value for name, value in asdict(canary).items() if name != "share"}
    order = {
        "folder": str(place.service), "candidate": new.hash, "control": old.control,
        "share": canary.share, "budget": budget,
        "promote": [*words, "canary", run, "--promote", *named],
        "back": [*words, "rollback", run, "--from", new.hash, *named],
    }  # fmt: skip
    state = {
        "pid": candidate.pid, "started_at": candidate.started_at, "url": candidate.url,
        "control": candidate.control, "fingerprint": new.hash, "promotion": asdict(new),
    }  # fmt: skip
    write_durably(place.service / CANARY, json.dumps(state, indent=1, ensure_ascii=False).encode())
    shadow(candidate, order)  # last: from now on it lives on, and can be found
    watch.log("canary.begun", pid=candidate.pid, share=canary.share, requests=canary.requests)
    written(watch, "canary.begun", artefact=new.hash, before=old.fingerprint)
    return {"pid": candidate.pid, "share": canary.share, "requests": canary.requests}


def check_memory(new: Promotion) -> None:
    """Both models are loaded; their caches fill as they are asked. Raises Lacking where that cannot be."""
    cache = int(new.settings.get("cache_bytes") or 0)
    if (free := free_bytes()) < cache:
        raise Lacking(
            "canary.memory", f"two models need {show_bytes(cache)} more, {show_bytes(free)} are free",
            why="the candidate's cache fills while it answers beside the service that stands",
            hint="free memory, or leave serve.canary out; all steps are reused",
        )  # fmt: skip


def canary_of(place: Workdir) -> Service | None:
    """The candidate that answers copies now."""
    return None if has_taken_place(place) else find(place.service, CANARY)


def has_taken_place(place: Workdir) -> bool:
    """Whoever promoted it was killed before that was noted: it is the service now."""
    candidate, service = find(place.service, CANARY), find(place.service)
    return candidate is not None and service is not None and candidate.pid == service.pid


def forget_canary(place: Workdir) -> None:
    (place.service / CANARY).unlink(missing_ok=True)


def end_canary(place: Workdir, watch: Watch) -> str | None:
    """The candidate goes, whatever it has counted; its artefact's hash, None where there is none."""
    candidate = canary_of(place)
    if candidate is not None:
        candidate.stop(now=True)
        written(watch, "canary.ended", artefact=candidate.fingerprint)
        watch.log("canary.ended", pid=candidate.pid)
    forget_canary(place)
    return candidate.fingerprint if candidate else None
