"""The lines of a batch's input file: what is wrong with them, and what each asks. Bounded memory."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import IO, Any

import orjson

from ..base.errors import ApiError
from ..base.limits import BODY_BYTES, check_json

LINES = 50_000  # OpenAI's limit
CUSTOM_ID = 512  # characters; all of a file are held while it is checked
FAULTS_SHOWN = 20
MOST_BROKEN = 0.5  # a file of which more is broken is no batch: it is refused as a whole


@dataclass(frozen=True, slots=True)
class Line:
    """One request of a batch; `n` counts from 0."""

    n: int
    custom_id: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """Of one line; `custom_id` where it says one."""

    n: int
    custom_id: str | None
    code: str
    message: str
    param: str | None

    def shown(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, "param": self.param, "line": self.n + 1}


@dataclass(frozen=True, slots=True)
class Checked:
    """A whole file: `refused` says why it is no batch, else each of `faults` is the error of its line."""

    total: int
    faults: list[Fault]
    refused: list[dict[str, Any]]


def check(source: IO[bytes], endpoint: str) -> Checked:
    """How many requests the file holds, and what is wrong with its lines."""
    faults: list[Fault] = []
    ids: set[str] = set()
    total = 0
    for n, data in enumerate(_raw_lines(source)):
        total += 1
        if fault := _fault(n, data, endpoint, ids):
            faults.append(fault)
        if total > LINES:
            break
    refused: list[dict[str, Any]] = []
    if len(faults) > total * MOST_BROKEN:
        refused = [fault.shown() for fault in faults[:FAULTS_SHOWN]]
    if total > LINES:
        refused.append(_whole("too_many_requests", f"a batch has at most {LINES} requests", LINES + 1))
    if not total:
        refused.append(_whole("empty_file", "the file has no requests", None))
    return Checked(total, faults, refused)


def _whole(code: str, message: str, line: int | None) -> dict[str, Any]:
    return {"code": code, "message": message, "param": None, "line": line}


def _fault(n: int, data: bytes | None, endpoint: str, ids: set[str]) -> Fault | None:
    if data is None:
        return Fault(n, None, "line_too_long", f"a line has at most {BODY_BYTES} bytes", None)
    try:
        check_json(data)  # before an object is made of it
        request = orjson.loads(data)
    except ApiError as e:
        return Fault(n, None, e.code or "invalid_request", e.message, None)
    except orjson.JSONDecodeError:
        return Fault(n, None, "invalid_json_line", "this line is not JSON", None)
    custom_id = request.get("custom_id") if isinstance(request, dict) else None
    if not isinstance(custom_id, str):
        return Fault(n, None, "invalid_request", "custom_id is missing", "custom_id")
    if len(custom_id) > CUSTOM_ID:
        message = f"a custom_id has at most {CUSTOM_ID} characters"
        return Fault(n, None, "invalid_request", message, "custom_id")
    if custom_id in ids:
        return Fault(n, custom_id, "duplicate_custom_id", "this custom_id came before", "custom_id")
    ids.add(custom_id)
    if request.get("method") != "POST":
        return Fault(n, custom_id, "invalid_method", "method is POST", "method")
    if request.get("url") != endpoint:
        return Fault(n, custom_id, "mismatched_url", f"url is the batch's: {endpoint}", "url")
    if not isinstance(request.get("body"), dict):
        return Fault(n, custom_id, "invalid_request", "body is a JSON object", "body")
    return None


def lines_of(source: IO[bytes], done: Container[int] = ()) -> Iterator[Line]:
    """The requests of a checked file, one at a time, but for those whose numbers are done."""
    for n, data in enumerate(_raw_lines(source)):
        if n not in done:
            request = orjson.loads(data or b"{}")
            yield Line(n, request["custom_id"], request["body"])


def _raw_lines(source: IO[bytes]) -> Iterator[bytes | None]:
    """Lines that are not blank; None for one that no body may be as long as."""
    with source:
        while line := source.readline(BODY_BYTES + 1):
            whole, rest = len(line) <= BODY_BYTES, line
            while not rest.endswith(b"\n") and (rest := source.readline(BODY_BYTES)):
                whole = False
            if not whole or line.strip():
                yield line if whole else None
