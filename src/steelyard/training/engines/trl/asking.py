"""A teacher asked by transformers, in a child of its own: gone before the student is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....artefact import Watch
from ....errors import Problem, no_memory
from ...rows import Rows
from ...teacher import Told, batches, stopped
from ..protocol import device_missing
from .order import line_of
from .processes import Processes, ended


def ask(rows: Rows, teacher: Path, settings: Mapping[str, Any], told: Told, watch: Watch) -> None:
    """Fill the file of its words, from where it was left. Raises Stopped, Lacking."""
    told.arrays()  # made at their full size
    order = write_questions(rows, teacher, settings, told)
    begun, done = told.done(), False
    with Processes(order, 1, told.folder / "hf") as processes:
        with watch.progress("teacher", told.tokens - begun, "tokens") as bar:
            for message in processes.messages(watch):
                if "asked" in message:
                    bar.advance(message["asked"])
                elif "stopped" in message:
                    raise stopped()
                elif "failed" in message:
                    raise problem_of(message)
                done = done or "done" in message
        if not done and watch.stop:  # asked to end before it could say so itself
            raise stopped()
        if not done:
            raise no_memory() if processes.killed() else ended(f"exit code {processes.code()}")


def write_questions(rows: Rows, teacher: Path, settings: Mapping[str, Any], told: Told) -> Path:
    """ask.json and the rows that it names, a batch a line."""
    path = told.folder / "questions.jsonl"
    with path.open("w") as file:
        file.writelines(json.dumps(line_of(batch)) + "\n" for batch in batches(rows.examples))
    order = {
        "base": str(teacher),
        "order": str(path),
        "told": {"folder": str(told.folder), "tokens": told.tokens, "top": told.top},
        "words": settings["vocab"],
        "dtype": settings["dtype"],
        "device": settings.get("device", "cpu"),
        "threads": settings["threads"],
        "packing": True,
        "train_from_scratch": False,
    }
    (told.folder / "ask.json").write_text(json.dumps({"ask": order}))
    return told.folder / "ask.json"


def problem_of(message: Mapping[str, Any]) -> Problem:
    if message["failed"] == "memory":
        return no_memory()
    if message["failed"] == "device":
        return device_missing(message["device"])
    return ended(f"{message.get('kind')} at {message.get('at')}")
