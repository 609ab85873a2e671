"""One line of the audit log: which act, by whom, on which artefact, when. No text, path, name or key.

{"v":1,"seq":7,"at":"2026-11-30T22:01:02.123Z","boot":"9f3a41c2","up_s":5120.3,"act":"model.exported",
"who":"uid:1000","outcome":"done","artefact":"sha256:...","details":{"to":"gguf"},"prev":"<SHA-256 of the line
before>","key":"...","sig":"..."}
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

DOMAIN = b"steelyard/audit/1/line"
GENESIS = "0" * 64  # before the first line
ACTS = {
    "service.started": "a service answers",
    "service.promoted": "a service took the place of the one before it",
    "service.rolled_back": "a service went back to the model before",
    "canary.begun": "a new model began to answer copies of live requests",
    "canary.ended": "such a model was sent away",
    "service.stopped": "a service ended in good order",
    "model.pulled": "a model was fetched",
    "scan.refused": "model files were refused as unsafe",
    "gate.judged": "the gate gave its verdict",
    "model.refreshed": "a model was trained again from rated answers, or was to be",
    "model.approved": "a model was approved by a second role",
    "model.exported": "a model was copied out",
    "key.made": "a key was made, or came into a file of keys",
    "key.locked": "a key file was locked by a passphrase or a token",
    "key.unlocked": "a key file was made plain again",
    "key.removed": "a key was taken out of a file of keys",
    "file.sealed": "a file was sealed",
    "file.opened": "a sealed file was opened",
    "file.rotated": "who may open a sealed file was changed",
    "rows.erased": "rows were erased, with a proof",
    "upload.deleted": "an uploaded file was deleted",
    "tuning.created": "a fine-tuning job was made",
    "tuning.ended": "a fine-tuning job ended",
    "tuning.deleted": "a fine-tuning job was deleted, or the model that came of it",
    "cluster.up": "hosts were made nodes of a cluster",
    "cluster.down": "what was started on hosts of a cluster was ended",
    "garbage.removed": "what nothing refers to was removed",
}
OUTCOMES = ("done", "refused", "failed")
WORD = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:+-]{0,99}(/[A-Za-z0-9][A-Za-z0-9._:+-]{0,99})?$")


def line_of(
    act: str, who: str | None, artefact: str | None, outcome: str, details: dict[str, Any]
) -> dict[str, Any]:
    """What a line says, less its place in the log. Raises KeyError for an act that ACTS does not have."""
    ACTS[act]
    if outcome not in OUTCOMES:
        raise KeyError(outcome)
    document: dict[str, Any] = {"act": act, "who": plain(who or f"uid:{os.getuid()}"), "outcome": outcome}
    if artefact is not None:
        document["artefact"] = plain(artefact)
    if details:
        document["details"] = {name: plain(value) for name, value in details.items() if value is not None}
    return document


def plain(value: Any) -> Any:
    """Numbers and single words stay; any other text becomes its hash: it may be somebody's."""
    if value is None or isinstance(value, bool | int | float):
        return value
    text = str(value)
    return (
        text if WORD.match(text) else f"sha256:{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()}"
    )


def clock() -> dict[str, Any]:
    """The time of the wall, and that since the start of this machine, which nobody can set back."""
    at = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    up_s = time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
    return {"at": at, "boot": boot(), "up_s": round(up_s, 3)}


@cache
def boot() -> str:
    """Which start of this machine it is; no name of the machine."""
    with suppress(OSError):
        return hashlib.sha256(Path("/proc/sys/kernel/random/boot_id").read_bytes()).hexdigest()[:8]
    return f"{os.getpid()}"  # without one, times since the start are compared within a process alone


def hash_of(line: bytes) -> str:
    """What the next line names as `prev`; of the line without its newline."""
    return hashlib.sha256(line).hexdigest()
