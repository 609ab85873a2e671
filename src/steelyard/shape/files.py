"""What every kind of model file has: where a tensor lies, and one error where it is broken."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Where, WrongUse

BROKEN_HINT = "the file is incomplete or damaged: fetch or copy it again"


@dataclass(frozen=True, slots=True)
class TensorAt:
    """A tensor's place: `begin` and `end` are byte offsets in the file."""

    dtype: str  # "BF16", "F32", "Q4_1"
    shape: tuple[int, ...]  # outermost first, as torch and numpy write it
    begin: int
    end: int


def broken(path: Path, why: str, code: str = "model.broken", hint: str = BROKEN_HINT) -> WrongUse:
    """The one error of a file that is not what it claims to be."""
    return WrongUse(code, f"{path.name} cannot be read", where=Where(str(path)), why=why, hint=hint)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file. Raises WrongUse with the line where it breaks."""
    try:
        document = json.loads(path.read_bytes())
    except json.JSONDecodeError as e:
        raise WrongUse(
            "model.broken", f"{path.name} cannot be read", where=Where(str(path), e.lineno),
            why=f"not JSON: {e.msg}", hint=BROKEN_HINT,
        ) from e  # fmt: skip
    except (OSError, UnicodeDecodeError) as e:
        raise broken(path, str(e)) from e
    if not isinstance(document, dict):
        raise broken(path, "it holds no JSON object")
    return document
