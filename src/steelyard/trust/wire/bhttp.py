"""Requests and answers as bytes: Binary HTTP (RFC 9292). Both forms are read, the indeterminate is written.

request   2, method, scheme, authority, path, fields, content, trailers
answer    3, status, fields, content, trailers
fields    (name, value)*, 0     content   (length, bytes)*, 0     each text and number by its varint
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .sealing import NotSealed, Short, read_varint, varint

KNOWN_REQUEST, KNOWN_ANSWER, REQUEST, ANSWER = range(4)
HEAD_BYTES_MAX = 64 << 10
PADDING_BYTES_MAX = 1 << 20
Fields = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, kw_only=True)
class Head:
    """Of a request where `status` is 0, else of an answer. Names of fields are in small letters."""

    method: bytes = b""
    scheme: bytes = b"https"
    authority: bytes = b""
    path: bytes = b""  # with its query
    status: int = 0
    fields: Fields = ()


def head_of(head: Head) -> bytes:
    if head.status:
        control = varint(ANSWER) + varint(head.status)
    else:
        parts = (head.method, head.scheme, head.authority, head.path)
        control = varint(REQUEST) + b"".join(map(text, parts))
    return control + b"".join(text(name) + text(value) for name, value in head.fields) + b"\0"


def data_of(data: bytes) -> bytes:
    return text(data) if data else b""


def end_of() -> bytes:
    """The content is over, and there are no trailers."""
    return b"\0\0"


def text(data: bytes) -> bytes:
    return varint(len(data)) + data


class MessageReader:
    """A message in pieces: `feed` gives its content; `head` stands there once it has been read."""

    def __init__(self) -> None:
        self.head: Head | None = None
        self._bytes = bytearray()
        self._known = False
        self._left = 0  # bytes of the content, or of one piece of it, still to come
        self._padding = 0  # bytes of it so far; none is kept
        self._part = "head"

    def feed(self, data: bytes) -> bytes:
        """Raises NotSealed for what is no such message."""
        self._bytes += data
        content = bytearray()
        try:
            while self._step(content):
                pass
        except Short:
            if self._part in ("head", "trailers") and len(self._bytes) > HEAD_BYTES_MAX:
                raise NotSealed(f"the {self._part} has more than {HEAD_BYTES_MAX} bytes") from None
        return bytes(content)

    def close(self) -> None:
        """The message is whole: what may be left out at its end are empty parts. Raises NotSealed."""
        if self.head is None or self._bytes or self._left:
            raise NotSealed("the message inside was cut off")

    def _step(self, content: bytearray) -> bool:
        if self._part == "head":
            self._read_head()
        elif self._part == "size":
            self._read_size()
        elif self._part == "content":
            taken = self._bytes[: self._left]
            content += taken
            del self._bytes[: len(taken)]
            self._left -= len(taken)
            if self._left:
                return False
            self._part = "trailers" if self._known else "size"
        elif self._part == "trailers":
            _, end = read_fields(self._bytes, 0, self._known)
            del self._bytes[:end]
            self._part = "padding"
        else:
            self._pass_padding()
            return False
        return True

    def _pass_padding(self) -> None:
        """Zeros behind the message (RFC 9292, section 3.8). Raises NotSealed."""
        self._padding += len(self._bytes)
        if self._bytes.strip(b"\0") or self._padding > PADDING_BYTES_MAX:
            raise NotSealed("what follows the message is no padding, or too much")
        self._bytes.clear()

    def _read_size(self) -> None:
        self._left, end = read_varint(self._bytes)
        del self._bytes[:end]
        self._part = "content" if self._left else "trailers"

    def _read_head(self) -> None:
        form, at = read_varint(self._bytes)
        if form > ANSWER:
            raise NotSealed("this is no binary HTTP message")
        self._known = form in (KNOWN_REQUEST, KNOWN_ANSWER)
        if form in (KNOWN_REQUEST, REQUEST):
            parts = []
            for _ in range(4):
                part, at = read_text(self._bytes, at)
                parts.append(part)
            fields, at = read_fields(self._bytes, at, self._known)
            method, scheme, authority, path = parts
            self.head = Head(method=method, scheme=scheme, authority=authority, path=path, fields=fields)
        else:
            self.head, at = self._read_answer(at)
        del self._bytes[:at]
        self._part = "size"

    def _read_answer(self, at: int) -> tuple[Head, int]:
        """The final one; those of information (1xx) before it are passed over."""
        while True:
            status, at = read_varint(self._bytes, at)
            fields, at = read_fields(self._bytes, at, self._known)
            if status >= 200:
                if status > 599:
                    raise NotSealed("the answer has no status of HTTP")
                return Head(status=status, fields=fields), at


def read_fields(data: bytearray, at: int, known: bool) -> tuple[Fields, int]:
    """Raises Short, NotSealed."""
    end = None
    if known:
        size, at = read_varint(data, at)
        end = at + size
        if size > HEAD_BYTES_MAX:
            raise NotSealed("the fields are too long")
        if end > len(data):
            raise Short
    fields = []
    while at != end:
        name, at = read_text(data, at)
        if not name:
            if known:
                raise NotSealed("a field has no name")
            break
        value, at = read_text(data, at)
        if end is not None and at > end:
            raise NotSealed("a field is longer than its section")
        fields.append((checked(name.lower()), checked(value)))
    return fields, at


def read_text(data: bytearray, at: int) -> tuple[bytes, int]:
    size, at = read_varint(data, at)
    if size > HEAD_BYTES_MAX:
        raise NotSealed("a text of the head is too long")
    if at + size > len(data):
        raise Short
    return checked(bytes(data[at : at + size])), at + size


def checked(value: bytes) -> bytes:
    """Nothing that HTTP/1.1 would read as the end of a line."""
    if any(byte in value for byte in b"\r\n\0"):
        raise NotSealed("a text of the head has an end of line in it")
    return value


def only(fields: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    return next((value for key, value in fields if key == name), None)
