"""One act of this process, written into the installation's log."""

from __future__ import annotations

from typing import Any

from ...errors import Problem
from ...places import audit_folder
from ..installation import signing_key
from .line import line_of
from .log import AuditLog


def audit(
    act: str,
    *,
    artefact: str | None = None,
    who: str | None = None,
    outcome: str = "done",
    **details: Any,
) -> Exception | None:
    """Write it down; None where that was done or the log is off, else why it could not be.

    `who`: a key's owner, else the user's number. `details`: numbers and single words; other text is hashed.
    An act is not undone for a full disk or a closed home: the caller says what was not written.
    """
    folder = audit_folder()
    document = line_of(act, who, artefact, outcome, details)
    if folder is None:
        return None
    try:
        AuditLog(folder, signing_key()).append(document)
    except (Problem, OSError) as e:
        return e
    return None
