"""A folder or a file that goes: at once, or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ...errors import Lacking, Where


def delete(path: Path) -> str | None:
    """Why it could not be removed; None where it is gone. Renamed first: nothing is left half there."""
    aside = path.with_name(f".part-gc-{os.getpid()}-{path.name.lstrip('.')}")
    try:
        path.rename(aside)
        shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
    except OSError as error:
        return error.strerror or str(error)
    return None


def gone(path: Path) -> None:
    """Raises Lacking where it cannot be removed."""
    if (fault := delete(path)) is not None:
        raise Lacking(
            "data.not_removed", f"{path} cannot be removed", where=Where(str(path)), why=fault,
            hint="mend that, then run the same command again: it goes on",
        )  # fmt: skip
