"""The system prompts that the data of a service has: what a talk with it begins with.

Read from the artefacts of its run on this machine, by whoever may read them; they are sent to nobody.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from .known import status

MOST_ROWS = 5000
MOST_PROMPTS = 9


def usual_systems(url: str) -> list[str]:
    """The system prompts of the rows that the service at `url` was tuned on, the commonest first.

    Empty where it is none of ours, where its rows have none, and under seal.
    """
    folder = _folder_of(url)
    return usual_in(folder) if folder else []


def _folder_of(url: str) -> Path | None:
    """The run's folder, or what `serve` was given."""
    from ..serving import services

    with suppress(OSError, ValueError):
        for entry in status():
            if (entry.get("service") or {}).get("url") == url:
                return Path(entry["workdir"])
        for service in services():
            if service["url"] == url:
                return Path(service["source"])
    return None


def usual_in(folder: Path) -> list[str]:
    """Of a run's folder, or of a tuned model's artefact in one."""
    rows = _rows_file(folder)
    counts: Counter[str] = Counter()
    with suppress(OSError, ValueError):
        if rows is not None:
            with rows.open(encoding="utf-8") as file:
                for line, _ in zip(file, range(MOST_ROWS), strict=False):
                    counts.update(_system_of(json.loads(line)))
    return [text for text, _ in counts.most_common(MOST_PROMPTS)]


def _rows_file(folder: Path) -> Path | None:
    """train.jsonl of the newest data set beside the artefact, or in the run's store."""
    store = folder.parent if (folder / "manifest.json").exists() else folder / "artefacts"
    files = [f for f in store.glob("dataset-*/train.jsonl") if f.is_file()]
    return max(files, key=lambda f: f.stat().st_mtime, default=None)


def _system_of(row: dict[str, Any]) -> list[str]:
    first = (row.get("messages") or [{}])[0]
    text = first.get("content")
    return [text] if first.get("role") == "system" and isinstance(text, str) and text else []
