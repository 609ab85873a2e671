"""What goes through a pipe: one letter, a number, bytes."""

from __future__ import annotations

import struct
from typing import Any

HEAD = ">cqQ"  # kind, number, length; a text, since it travels to other nodes with what uses it
Frame = tuple[bytes, int, bytes]


def write_frame(file: Any, kind: bytes, number: int, body: bytes) -> None:
    """Raises BrokenPipeError where nobody reads."""
    file.write(struct.pack(HEAD, kind, number, len(body)) + body)
    file.flush()


def read_frame(file: Any) -> Frame | None:
    """None at the end, also in the middle of a frame: its writer has died."""
    head = _exactly(file, struct.calcsize(HEAD))
    if head is None:
        return None
    kind, number, length = struct.unpack(HEAD, head)
    body = _exactly(file, length)
    return None if body is None else (kind, number, body)


def _exactly(file: Any, size: int) -> bytes | None:
    out = bytearray()
    while len(out) < size:
        piece = file.read(size - len(out))
        if not piece:
            return None
        out += piece
    return bytes(out)
