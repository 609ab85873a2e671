"""What is raised of bytes that are not sealed as they should be, and integers as QUIC writes them."""

from __future__ import annotations


class NotSealed(Exception):
    """Damaged, cut short, of another key, or no such message; the text is for a log, not for a peer."""


class Short(Exception):
    """The bytes end before the value does: more may come."""


def varint(number: int) -> bytes:
    """RFC 9000, section 16: the first two bits say whether 1, 2, 4 or 8 bytes."""
    for power, size in enumerate((1, 2, 4, 8)):
        if number < 1 << (8 * size - 2):
            return (number | power << (8 * size - 2)).to_bytes(size, "big")
    raise ValueError(f"{number} has more than 62 bits")


def read_varint(data: bytes | bytearray, at: int = 0) -> tuple[int, int]:
    """The number, and where it ends. Raises Short."""
    if at >= len(data):
        raise Short
    size = 1 << (data[at] >> 6)
    if at + size > len(data):
        raise Short
    mask = (1 << (8 * size - 2)) - 1
    return int.from_bytes(data[at : at + size], "big") & mask, at + size
