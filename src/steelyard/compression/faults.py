"""What ends a pruning: no row that shows anything, a wish to stop."""

from __future__ import annotations

from ..artefact import Watch
from ..errors import Stopped, Where, WrongUse


def no_rows() -> WrongUse:
    return WrongUse(
        "compress.prune_no_rows",
        "no row shows what is needed",
        where=Where(field="compress.prune"),
        why="importance is measured on chats and texts that were taught",
        hint="give rows of messages or text, or leave compress.prune out",
    )


def stop_if_asked(watch: Watch) -> None:
    if watch.stop:
        raise Stopped("run.stopped", "stopped while pruning", hint="run the same command again")
