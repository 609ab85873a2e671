"""Rows that were erased: no cleaning takes them again, from whatever file they come.

    $STEELYARD_STATE/erased/rows.json    {"schema", "key", "rows": [keyed hash, ...]}; the user's alone

The hash of a short text can be guessed; without the key of this list it confirms no guess.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from ...artefact import write_durably
from ...errors import Where, WrongUse
from ...places import erased_file

ERASED = "erased"  # the reason in the account


@dataclass(frozen=True, slots=True)
class Suppressed:
    """The list, as values: it travels to other processes."""

    key: bytes = b""
    rows: frozenset[str] = frozenset()

    def keyed(self, text_hash: str) -> str:
        """What stands in the list, and in a proof, for a row of that hash."""
        return hmac.new(self.key, text_hash.encode(), hashlib.sha256).hexdigest()

    def holds(self, text_hash: str) -> bool:
        return bool(self.rows) and self.keyed(text_hash) in self.rows

    @property
    def digest(self) -> str:
        """Equal lists, equal digest; "" of an empty one, so that nothing changes where nothing was erased."""
        return hashlib.sha256("\n".join(sorted(self.rows)).encode()).hexdigest() if self.rows else ""


NOTHING = Suppressed()


def suppressed() -> Suppressed:
    """The list of this user; empty where there is none. Raises WrongUse where it is damaged: no row may
    come back because a list could not be read."""
    path = erased_file()
    try:
        body = json.loads(path.read_bytes())
        return Suppressed(bytes.fromhex(body["key"]), frozenset(map(str, body["rows"])))
    except (FileNotFoundError, NotADirectoryError):  # a home that is no folder has no list either
        return NOTHING
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise WrongUse(
            "data.erased_list", "the list of erased rows cannot be read", where=Where(str(path)),
            why="it is damaged or not readable, and rows on it must not be taught again",
            hint="put it back from a backup",
        ) from e  # fmt: skip


def suppress(hashes: Iterable[str]) -> Suppressed:
    """Add rows by their hashes, durably; the whole list. One caller at a time."""
    before, path = suppressed(), erased_file()
    key = before.key or secrets.token_bytes(32)
    added = Suppressed(key)
    after = Suppressed(key, before.rows | {added.keyed(one) for one in hashes})
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.parent.chmod(0o700)
    body = {"schema": 1, "key": key.hex(), "rows": sorted(after.rows)}
    write_durably(path, json.dumps(body, indent=1).encode())
    path.chmod(0o600)
    return after
