"""Rows of a table with one value of `thread` make one chat, in the order of its first row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..account import FileAccount
from ..row import Message
from .files import Broken, Record
from .messages import Misfit
from .shapes import MapNames, mapped, string


def conversations(records: Iterator[Record], names: MapNames, account: FileAccount) -> Iterator[Record]:
    """Records of the shape `messages`, one a thread; `account.table_rows` counts what they were made of."""
    turns: dict[str, list[Message]] = {}
    first: dict[str, tuple[int, Mapping[str, Any]]] = {}
    words = {word: columns for word, columns in names.items() if word != "text"}
    account.table_rows = 0
    for line, fields in records:
        account.table_rows += 1
        if isinstance(fields, Broken):
            yield line, fields
            continue
        try:
            thread = string(fields, names["thread"][0]) or f"\0{line}"  # no thread: a chat of its own
            messages = mapped(fields, words).messages
        except Misfit as e:
            yield line, Broken(e.kind, str(e))
            continue
        first.setdefault(thread, (line, fields))
        turns.setdefault(thread, []).extend(messages or ())
    for thread, messages_ in turns.items():
        at, of_first = first[thread]
        yield at, {**of_first, "messages": joined(messages_)}


def joined(messages: Sequence[Message]) -> list[Message]:
    """One system prompt, empty cells left out, two turns of one side in a row made one."""
    out: list[Message] = []
    for message in messages:
        if not message["content"].strip() or (message["role"] == "system" and out):
            continue
        if out and out[-1]["role"] == message["role"]:
            out[-1] = {**out[-1], "content": f"{out[-1]['content']}\n{message['content']}"}
        else:
            out.append(message)
    return out
