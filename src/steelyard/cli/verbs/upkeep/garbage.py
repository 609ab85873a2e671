"""gc: what nothing refers to any more, and how many bytes it takes."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ....units import show_bytes
from ...telling.acts import written
from ...telling.messages import say
from ...telling.output import result, table
from ..recipes import no_settings
from ..runs import Workdir


def gc(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help=say("Show what would be removed; remove nothing."))
    ] = False,
    workdir: Workdir = None,
) -> None:
    no_settings("gc")
    from ....run import collect

    found = collect(workdir=workdir, dry_run=dry_run)
    if found["removed"] and not dry_run:
        written("garbage.removed", folders=len(found["removed"]), bytes=found["bytes"])
    result({"schema": "steelyard.gc/1", **found}, *lines(found))


def lines(found: dict[str, Any]) -> list[str]:
    """What goes, the largest first, then what stays and why, then the sum."""
    rows = [(show_bytes(w["bytes"]), say(w["kind"]), w["path"], say(w["why"])) for w in found["removed"]]
    head = (say("size"), say("kind"), say("folder"), say("why"))
    shown = table(head, rows, indent=0) if rows else []
    shown += [say("left alone: {path}: {why}", path=s["path"], why=say(s["why"])) for s in found["spared"]]
    text = "{bytes} would be freed" if found["dry_run"] else "{bytes} freed"
    return [*shown, say(text, bytes=show_bytes(found["bytes"]))]
