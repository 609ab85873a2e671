"""What a batch leaves: output and error file, counts, tokens. Made once, however often it is tried."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import orjson

from ..base.store import ObjectStore, Stored
from . import files

OUTPUT, ERRORS = "batch_output", "batch_errors"  # the lines' answers, by the number of the line
KEPT_S = 30 * 86400  # an ended batch goes with its files
ENDS = {"completed", "failed", "expired", "cancelled"}


def end(store: ObjectStore, kind: str, stored: Stored, status: str, **shown: Any) -> Stored:
    """Give the answers out as files and close the batch, all at once. Blocks. Raises StoreFull."""
    made = [_content(store, stored, *one) for one in ((OUTPUT, "output"), (ERRORS, "error"))]
    now, usage = int(time.time()), Tokens()
    counts = dict(stored.shown["request_counts"])
    for (file, lines, tokens), count in zip(made, ("completed", "failed"), strict=True):
        counts[count] = lines
        usage = usage if file is None or count == "failed" else tokens
    ended = replace(
        stored.with_shown(
            status=status, request_counts=counts, usage=usage.shown(), **{f"{status}_at": now},
            output_file_id=made[0][0] and made[0][0].id, error_file_id=made[1][0] and made[1][0].id, **shown,
        ),
        expires_at=now + KEPT_S, size_bytes=0,
    )  # fmt: skip
    try:
        with store.together():
            for file, _, _ in made:
                if file is not None:
                    store.put(files.KIND, file)
            store.drop_lines(OUTPUT, stored.id)
            store.drop_lines(ERRORS, stored.id)
            store.put(kind, ended)
    except BaseException:
        for file, _, _ in made:
            if file is not None:
                store.content(file.id).unlink(missing_ok=True)
        raise
    store.content(stored.id).unlink(missing_ok=True)
    store.database.shrink()
    return ended


def _content(store: ObjectStore, stored: Stored, kind: str, word: str) -> tuple[Stored | None, int, Tokens]:
    """The file of one kind with its bytes on disk, None where it would be empty; its lines and tokens."""
    size_bytes, lines, tokens = 0, 0, Tokens()
    for line in store.lines(kind, stored.id):
        size_bytes, lines = size_bytes + len(line) + 1, lines + 1
        if kind == OUTPUT:
            tokens.add(orjson.loads(line))
    if not lines:
        return None, 0, tokens
    life_s = stored.hidden.get("output_life_s") or files.BATCH_LIFE_S
    file_id = f"file-{stored.id.removeprefix('batch_')}{word[0]}"  # the same each time it is tried
    file = files.new_file(file_id, f"{stored.id}_{word}.jsonl", "batch_output", stored.owner, life_s)
    store.keep(file_id, io.BufferedReader(_Lines(store.lines(kind, stored.id))), size_bytes)
    return files.sized(file, size_bytes), lines, tokens


class _Lines(io.RawIOBase):
    """Lines as a file to read from, whatever their number."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self.lines: Iterator[bytes] = iter(lines)
        self.rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self.rest:
            self.rest = next(self.lines, b"")
            self.rest += b"\n" if self.rest else b""
        piece, self.rest = self.rest[: len(buffer)], self.rest[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)


class Tokens:
    """Tokens of all answers, whatever the route calls them."""

    def __init__(self) -> None:
        self.read = self.completion = self.cached = 0

    def add(self, record: dict[str, Any]) -> None:
        body = record["response"]["body"]
        usage = (body.get("usage") if isinstance(body, dict) else None) or {}
        self.read += usage.get("prompt_tokens") or usage.get("input_tokens") or 0
        self.completion += usage.get("completion_tokens") or usage.get("output_tokens") or 0
        details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
        self.cached += details.get("cached_tokens") or 0

    def shown(self) -> dict[str, Any]:
        return {
            "input_tokens": self.read, "input_tokens_details": {"cached_tokens": self.cached},
            "output_tokens": self.completion, "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.read + self.completion,
        }  # fmt: skip
