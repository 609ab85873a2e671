"""Fields of a signed JSON document, each of the type and size that Intel's API writes."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

from .verdict import Rejected

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)")


class Document:
    """A JSON object; a field that is missing or wrong rejects the collateral."""

    def __init__(self, fields: Any, what: str) -> None:
        if not isinstance(fields, dict):
            raise broken(f"{what} is no object")
        self.fields, self.what = fields, what

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def text(self, name: str) -> str:
        value = self.fields.get(name)
        if not isinstance(value, str):
            raise broken(f"{self.what} has no text {name}")
        return value

    def number(self, name: str, most: int) -> int:
        value = self.fields.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            raise broken(f"{self.what} has no number {name}")
        return value

    def bytes(self, name: str, size: int | None = None) -> bytes:
        value = self.text(name)
        if not re.fullmatch(r"([0-9A-Fa-f]{2})*", value) or (size is not None and len(value) != 2 * size):
            raise broken(f"{name} of {self.what} is not {size or 'whole'} bytes in hex")
        return bytes.fromhex(value)

    def moment(self, name: str) -> datetime:
        found = read_rfc3339(self.text(name))
        if found is None:
            raise broken(f"{name} of {self.what} is no time")
        return found

    def inside(self, name: str) -> Document:
        return Document(self.fields.get(name), f"{name} of {self.what}")

    def each(self, name: str) -> list[Document]:
        values = self.fields.get(name)
        if not isinstance(values, list) or not values:
            raise broken(f"{self.what} has no list {name}")
        return [Document(value, f"{name} of {self.what}") for value in values]

    def texts(self, name: str) -> tuple[str, ...]:
        values = self.fields.get(name, [])
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise broken(f"{name} of {self.what} is no list of texts")
        return tuple(values)


def read_document(text: str | bytes, what: str) -> Document:
    try:
        fields = json.loads(text, object_pairs_hook=no_duplicates, parse_constant=no_constant)
    except (ValueError, RecursionError) as e:
        raise broken(f"{what} is no JSON: {e}") from e
    return Document(fields, what)


def read_rfc3339(text: str) -> datetime | None:
    """A moment with its offset from UTC, else None."""
    if not MOMENT.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:  # February 30th
        return None


def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def broken(detail: str) -> Rejected:
    return Rejected("collateral_malformed", detail)
