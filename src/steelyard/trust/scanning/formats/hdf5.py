"""HDF5, as far as a model's file needs it: every object's header, for data that lies in other files and for
the JSON of Keras. No dataset is read."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..limits import Bad, Limits, TooMuch
from ..view import View

SIGN = b"\x89HDF\r\n\x1a\n"
NOWHERE = (1 << 64) - 1
LINK_INFO, LINK, EXTERNAL, LAYOUT, ATTRIBUTE, CONTINUED, SYMBOLS, ATTRIBUTE_INFO = 2, 6, 7, 8, 12, 16, 17, 21
VIRTUAL = 3  # a layout whose data are parts of other files
MESSAGES_MAX = 1_000_000
TEXT_BYTES_MAX = 32 << 20


@dataclass(slots=True)
class Walk:
    """Object headers reached from the root group; texts of attributes on the way."""

    view: View
    limits: Limits
    texts: list[bytes] = field(default_factory=list)
    open: list[int] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    messages: int = 0
    unruled: bool = False

    def number(self, at: int, size: int = 8) -> int:
        data = self.view.read_at(at, size)
        if at < 0 or len(data) < size:
            raise Bad("h5_cut")
        return int.from_bytes(data, "little")

    def bytes_at(self, at: int, size: int) -> bytes:
        if at < 0 or size < 0 or at + size > self.view.size:
            raise Bad("h5_cut")
        if size > TEXT_BYTES_MAX:
            raise TooMuch("too_large")
        return self.view.read_at(at, size)


def attribute_texts(view: View, limits: Limits) -> list[bytes]:
    """The texts of all attributes. Raises Bad (`h5_external`: data of other files), TooMuch."""
    walk = Walk(view, limits)
    walk.open.append(_root(walk))
    while walk.open:
        at = walk.open.pop()
        if at == NOWHERE or at in walk.seen:
            continue
        walk.seen.add(at)
        limits.check_time()
        for kind, place, size in _messages(walk, at):
            _message(walk, kind, place, size)
    if walk.unruled:
        raise TooMuch("h5_dense")
    return walk.texts


def _root(walk: Walk) -> int:
    """Address of the root group's header, by version of the superblock. Other widths than 8 have no rule."""
    head = walk.bytes_at(0, 16)
    version = head[8]
    wide = head[13:15] if version < 2 else head[9:11]
    if version > 3 or wide != b"\x08\x08":
        raise TooMuch("h5_version")
    if version < 2:
        return walk.number(24 + (4 if version == 1 else 0) + 32 + 8)
    return walk.number(36)


def _messages(walk: Walk, at: int) -> Iterator[tuple[int, int, int]]:
    """Kind, place and size of each message of the object at `at`, continuations too."""
    if walk.bytes_at(at, 4) == b"OHDR":
        flags = walk.number(at + 5, 1)
        width = 1 << (flags & 3)
        start = at + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        blocks, old, order = [(start + width, walk.number(start, width))], False, 2 * bool(flags & 4)
    else:
        if walk.number(at, 1) != 1:
            raise Bad("h5_header")
        blocks, old, order = [(at + 16, walk.number(at + 8, 4))], True, 0
    for place, size in blocks:
        yield from _block(walk, place, size, 8 if old else 4 + order, old, blocks)


def _block(
    walk: Walk, place: int, size: int, head: int, old: bool, blocks: list[tuple[int, int]]
) -> Iterator[tuple[int, int, int]]:
    end = place + size
    if end > walk.view.size:
        raise Bad("h5_cut")
    while place + head <= end:
        walk.messages += 1
        if walk.messages > MESSAGES_MAX:
            raise TooMuch("too_large")
        kind = walk.number(place, 2 if old else 1)
        length = walk.number(place + (2 if old else 1), 2)
        place += head
        if kind == CONTINUED:
            sign = 0 if old else 4  # OCHK before, a checksum behind
            block = walk.number(place) + sign, walk.number(place + 8) - 2 * sign
            if block not in blocks:
                blocks.append(block)
        yield kind, place, length
        place += length


def _message(walk: Walk, kind: int, at: int, size: int) -> None:
    if kind == EXTERNAL or (kind == LAYOUT and walk.number(at, 1) > 2 and walk.number(at + 1, 1) == VIRTUAL):
        raise Bad("h5_external")
    if kind == LINK:
        _link(walk, at)
    elif kind == SYMBOLS:
        _tree(walk, walk.number(at), 0)
    elif kind in (LINK_INFO, ATTRIBUTE_INFO):
        flags = walk.number(at + 1, 1)
        skipped = (8 if kind == LINK_INFO else 2) * (flags & 1)
        walk.unruled |= walk.number(at + 2 + skipped) != NOWHERE
    elif kind == ATTRIBUTE:
        _attribute(walk, at, size)


def _link(walk: Walk, at: int) -> None:
    flags = walk.number(at + 1, 1)
    place = at + 2
    kind = walk.number(place, 1) if flags & 8 else 0
    place += bool(flags & 8) + 8 * bool(flags & 4) + bool(flags & 16)
    width = 1 << (flags & 3)
    place += width + walk.number(place, width)
    if kind >= 64:
        raise Bad("h5_external")
    if kind == 0:
        walk.open.append(walk.number(place))


def _tree(walk: Walk, at: int, depth: int) -> None:
    """A group's B-tree: its leaves list the addresses of what it holds."""
    if at in walk.seen or depth > 32:
        return
    walk.seen.add(at)
    walk.limits.check_time()
    sign = walk.bytes_at(at, 4)
    if sign == b"SNOD":
        for i in range(walk.number(at + 6, 2)):
            if walk.number(at + 8 + 40 * i + 16, 4) != 2:  # 2: a link within the file, by name
                walk.open.append(walk.number(at + 8 + 40 * i + 8))
        return
    if sign != b"TREE":
        raise Bad("h5_tree")
    for i in range(walk.number(at + 6, 2)):
        _tree(walk, walk.number(at + 24 + 8 + 16 * i), depth + 1)


def _attribute(walk: Walk, at: int, size: int) -> None:
    """Its text: inline, or in a global heap."""
    version, flags, name, kind, space = struct.unpack("<BBHHH", walk.bytes_at(at, 8))
    if version not in (1, 2, 3) or flags:
        walk.unruled |= bool(flags)
        return
    padded = (lambda n: -(-n // 8) * 8) if version == 1 else (lambda n: n)
    place = at + 8 + (version == 3) + padded(name)
    type_class = walk.number(place, 1) & 15
    data = place + padded(kind) + padded(space)
    if type_class == 3:
        walk.texts.append(walk.bytes_at(data, max(0, at + size - data)))
    elif type_class == 9:
        for item in range(data, at + size - 15, 16):
            walk.texts.append(_from_heap(walk, walk.number(item + 4), walk.number(item + 12, 4)))


def _from_heap(walk: Walk, at: int, wanted: int) -> bytes:
    if at in (0, NOWHERE):
        return b""
    if walk.bytes_at(at, 4) != b"GCOL":
        raise Bad("h5_heap")
    end, place = at + walk.number(at + 8), at + 16
    while place + 16 <= end:
        walk.limits.check_time()
        index, size = walk.number(place, 2), walk.number(place + 8)
        if index == wanted:
            return walk.bytes_at(place + 16, size)
        if index == 0:
            break
        place += 16 + -(-size // 8) * 8
    raise Bad("h5_heap")
