"""Answers of the model, a line each as they come: a call that goes on asks for none of them twice."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from .prompt import VERSION


def key_of(row: Mapping[str, Any], model: str, questions: int) -> str:
    """Equal where the same would be asked of the same model."""
    asked = [VERSION, model, questions, row["source"], row.get("heading", []), row["text"]]
    return hashlib.sha256(orjson.dumps(asked)).hexdigest()[:32]


class Journal:
    """{key: {"text", "prompt_tokens", "completion_tokens"}} and its file, which is only appended to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, dict[str, Any]] = {}
        if path.exists():
            os.truncate(path, self.load())  # what a killed call left of its last line
        self.file: BinaryIO = path.open("ab")

    def load(self) -> int:
        """How many bytes are whole lines."""
        whole = 0
        with open(self.path, "rb") as lines:
            for line in lines:
                try:
                    one = orjson.loads(line) if line.endswith(b"\n") else None
                except orjson.JSONDecodeError:
                    one = None
                if not isinstance(one, dict) or "key" not in one:
                    break
                self.answers[one["key"]] = one
                whole += len(line)
        return whole

    def add(self, key: str, answer: Mapping[str, Any]) -> None:
        one = {"key": key, **answer}
        self.answers[key] = one
        self.file.write(orjson.dumps(one, option=orjson.OPT_APPEND_NEWLINE))
        self.file.flush()

    def close(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
