"""The header of a GGUF file: every count, length, dimension and offset within the file, and its templates."""

from __future__ import annotations

import math
import struct
from itertools import pairwise
from typing import Any

from ..limits import Bad, Limits
from ..view import Cut, Reader, View

# Value types, by number: struct letters; 8 is a string, 9 an array.
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
# Tensor types, by number: values in a block, bytes of a block (ggml.h).
BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36),
          10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
          16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110),
          22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8),
          29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17)}  # fmt: skip
DIMENSIONS_MAX = 8
NAME_BYTES_MAX = 1 << 16
TEMPLATE_BYTES_MAX = 1 << 20
ALIGNMENT_MAX = 1 << 20
CHECK_EVERY = 4096


def gguf_templates(view: View, limits: Limits) -> list[str]:
    """The chat templates of a GGUF file whose header holds. Raises Bad, TooMuch."""
    try:
        return _Header(view, limits).read()
    except (Cut, struct.error) as e:
        raise Bad("gguf_cut") from e


class _Header:
    def __init__(self, view: View, limits: Limits) -> None:
        self.reader, self.limits = Reader(view), limits
        self.templates: list[str] = []
        self.alignment = 32

    def read(self) -> list[str]:
        if self.reader.take(4) != b"GGUF" or self.number("I") not in (2, 3):
            raise Bad("gguf_version")
        tensors, pairs = self.number("Q"), self.number("Q")
        if tensors + pairs > self.reader.left:
            raise Bad("gguf_cut")
        for _ in range(pairs):
            self.pair()
        if not 1 <= self.alignment <= ALIGNMENT_MAX:
            raise Bad("gguf_alignment")
        spans = [self.tensor() for _ in range(tensors)]
        self.check_spans(spans)
        return self.templates

    def number(self, letter: str) -> Any:
        return struct.unpack("<" + letter, self.reader.take(struct.calcsize("<" + letter)))[0]

    def text(self, limit: int) -> str:
        length = self.number("Q")
        if length > self.reader.left:
            raise Bad("gguf_cut")
        if length > limit:
            raise Bad("gguf_length")
        return self.reader.take(length).decode("utf-8", "replace")

    def skip_text(self) -> None:
        self.reader.skip(self.number("Q"))

    def pair(self) -> None:
        self.limits.check_time()
        key, kind = self.text(NAME_BYTES_MAX), self.number("I")
        if key.startswith("tokenizer.chat_template") and kind in (8, 9):
            self.templates += self.value_texts(kind)
        elif key == "general.alignment" and kind in (4, 10):
            self.alignment = self.number(SCALARS[kind])
        else:
            self.skip_value(kind, 0)

    def value_texts(self, kind: int) -> list[str]:
        if kind == 8:
            return [self.text(TEMPLATE_BYTES_MAX)]
        inner, count = self.number("I"), self.number("Q")
        if inner != 8 or count > 64:
            raise Bad("gguf_type")
        return [self.text(TEMPLATE_BYTES_MAX) for _ in range(count)]

    def skip_value(self, kind: int, depth: int) -> None:
        if kind in SCALARS:
            self.reader.skip(struct.calcsize(SCALARS[kind]))
        elif kind == 8:
            self.skip_text()
        elif kind == 9 and depth <= 4:
            self.skip_array(self.number("I"), self.number("Q"), depth)
        else:
            raise Bad("gguf_type")

    def skip_array(self, inner: int, count: int, depth: int) -> None:
        if count > self.reader.left:
            raise Bad("gguf_cut")
        if inner in SCALARS:
            self.reader.skip(struct.calcsize(SCALARS[inner]) * count)
            return
        for i in range(count):
            if i % CHECK_EVERY == 0:
                self.limits.check_time()
            self.skip_value(inner, depth + 1)

    def tensor(self) -> tuple[int, int]:
        """Where one tensor's data begin and end, counted from the first one's."""
        self.limits.check_time()
        self.text(NAME_BYTES_MAX)
        dimensions = self.number("I")
        if dimensions > DIMENSIONS_MAX:
            raise Bad("gguf_dimensions")
        shape = [self.number("Q") for _ in range(dimensions)]
        kind, offset = self.number("I"), self.number("Q")
        values = math.prod(shape)
        if values >= 1 << 62:
            raise Bad("gguf_dimensions")
        block, size = BLOCKS.get(kind, (1, 0))  # a type of tomorrow: its begin is checked alone
        if shape and shape[0] % block:
            raise Bad("gguf_dimensions")
        return offset, offset + values // block * size

    def check_spans(self, spans: list[tuple[int, int]]) -> None:
        data = self.reader.left - -self.reader.at % self.alignment
        if any(begin % self.alignment or end > max(data, 0) for begin, end in spans):
            raise Bad("gguf_offset")
        ordered = sorted(spans)
        if any(later[0] < earlier[1] for earlier, later in pairwise(ordered)):
            raise Bad("gguf_overlap")
        if spans and data - max(end for _, end in spans) > self.alignment and self.known(spans):
            raise Bad("gguf_tail")

    def known(self, spans: list[tuple[int, int]]) -> bool:
        return all(end > begin for begin, end in spans)
