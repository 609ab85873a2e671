"""What is to be judged, read from files: bytes, a policy, a time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ...errors import Where, WrongUse
from .collateral import COLLATERAL_BYTES_MAX
from .document import read_rfc3339
from .policy import POLICY_BYTES_MAX
from .quote import QUOTE_BYTES_MAX

RUNTIME_BYTES_MAX = 16 << 20


@dataclass(frozen=True, kw_only=True)
class Case:
    """`nonce` is hex as it came. `policy_folder`: where its root_ca lies. `at`: the only clock."""

    quote: bytes
    collateral: bytes
    policy: bytes
    policy_folder: Path
    at: datetime
    nonce: str | None = None
    runtime_data: bytes | None = None
    nonce_store: Path | None = None


def read_case(
    quote: Path,
    collateral: Path,
    policy: Path,
    at: str,
    nonce: str | None = None,
    runtime_data: Path | None = None,
    nonce_store: Path | None = None,
) -> Case:
    """Raises WrongUse for a file that cannot be read, or a time that is none."""
    return Case(
        quote=read_bytes(quote, QUOTE_BYTES_MAX),
        collateral=read_bytes(collateral, COLLATERAL_BYTES_MAX),
        policy=read_bytes(policy, POLICY_BYTES_MAX),
        policy_folder=policy.parent,
        at=read_moment(at),
        nonce=nonce,
        runtime_data=None if runtime_data is None else read_bytes(runtime_data, RUNTIME_BYTES_MAX),
        nonce_store=nonce_store,
    )


def read_bytes(path: Path, most: int) -> bytes:
    """At most one byte more than `most`: whoever parses it sees that it is too large."""
    try:
        with open(path, "rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as e:
        raise WrongUse(
            "attest.unreadable", f"cannot read {path}", where=Where(str(path)), why=str(e),
            hint="name a file that is there and can be read",
        ) from e  # fmt: skip
    return data


def read_moment(text: str) -> datetime:
    at = read_rfc3339(text.upper())
    if at is None:
        raise WrongUse(
            "attest.time",
            f"{text!r} is no time",
            where=Where(field="--at"),
            hint="RFC 3339 with its offset, example: 2026-09-01T12:00:00Z",
        )
    return at
