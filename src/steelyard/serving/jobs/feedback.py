"""Ratings of answers: what the API keeps of them, and what a refresh reads. One store of the service's.

Kept only where the recipe asks for a refresh, for as long as it says; sealed, traced, erased, counted into a
key's room as all that is stored here. Not here: the route (api/feedback.py), which ratings count (data).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import orjson

from ...trust import Keys
from ..base.store import ObjectStore, Stored, new_id, store_folder

KIND = "feedback"
MOST = 100_000  # of a key


def kept(rating: Mapping[str, Any], owner: str, keep_s: float) -> Stored:
    """One to be stored. The key is the rater: who holds one is one voice, whatever he calls himself."""
    at = time.time()
    hidden = {**rating, "rater": owner, "at": at}
    shown = {"id": new_id("feedback_"), "object": KIND, "created_at": int(at), "rating": rating["rating"]}
    shown |= {"response": rating["id"]} if rating.get("id") else {}
    return Stored(
        id=shown["id"], owner=owner, shown=shown, hidden=hidden, expires_at=int(at + keep_s),
        size_bytes=len(orjson.dumps([shown, hidden])),
    )  # fmt: skip


def ratings_stored(name: str, keys: Keys | None = None) -> list[dict[str, Any]]:
    """What the service of that name was told, the oldest first; none where it keeps nothing."""
    folder = store_folder(name, sealed=keys is not None)
    if not folder.is_dir():
        return []
    with closing(ObjectStore(folder, keys)) as store:
        return [{k: v for k, v in one.hidden.items() if k != "id"} for one in reversed(store.all(KIND))]
