"""How much one key may have stored here, and under way: checked before anything more is taken."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..base.errors import ApiError
from ..base.store import ObjectStore

FILES, BATCHES, JOBS = "files", "batches", "jobs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """Of one key."""

    stored_bytes: int
    files: int
    batches: int  # under way
    jobs: int  # under way


def quota_of(api: Any, owner: str | None) -> Quota:
    """What the key's entry says, else what the service was started with."""
    key = api.served.keys.of_owner(owner or "local")
    names = ("stored_bytes", "files", "batches", "jobs")
    limits = {name: getattr(key, name, None) for name in names}
    return Quota(**{
        name: getattr(api.settings, f"{name}_per_key") if limit is None else limit
        for name, limit in limits.items()
    })  # fmt: skip


def check_bytes(store: ObjectStore, quota: Quota, owner: str | None, more_bytes: int) -> None:
    """Raises ApiError 403."""
    used_bytes = sum(size for _, size in store.used(owner).values())
    if used_bytes + more_bytes > quota.stored_bytes:
        raise ApiError(
            403, f"this key may store {quota.stored_bytes} bytes here; {used_bytes} are taken, {more_bytes} "
            "more do not fit: delete files, responses or jobs", code="quota_exceeded",
        )  # fmt: skip


def check_files(store: ObjectStore, quota: Quota, owner: str | None) -> None:
    """Raises ApiError 403."""
    count = store.used(owner).get(FILES, (0, 0))[0]
    if count >= quota.files:
        message = f"this key may have {quota.files} files here, and has {count}: delete some"
        raise ApiError(403, message, code="quota_exceeded")


def check_under_way(
    store: ObjectStore, most: int, owner: str | None, kind: str, states: Iterable[str]
) -> None:
    """Raises ApiError 403."""
    count = store.count(kind, owner, states)
    if count >= most:
        message = (
            f"this key may have {most} {kind} under way here, and has {count}: wait for one, or cancel one"
        )
        raise ApiError(403, message, code="quota_exceeded")
