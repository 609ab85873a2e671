"""Tokens and their 64-bit hashes, for a whole batch at once.

A token is one CJK ideograph or one run of other letters and digits, after NFKC and lower case: no dictionary,
the same for English and Chinese. Hashes depend on the text alone, never on its place in a batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .kinds import Kind, characters

BASE = 0x9E3779B97F4A7C15 | 1
INVERSE = pow(BASE, -1, 1 << 64)
MIX = np.uint64(0xBF58476D1CE4E5B9)
SHINGLE = 5  # tokens
_powers: dict[int, np.ndarray] = {}


@dataclass(frozen=True, slots=True)
class Tokens:
    """Of a batch of texts; arrays of one entry a token, in order."""

    hash: np.ndarray  # uint64
    text: np.ndarray  # int32, the number of its text
    start: np.ndarray  # int64, its place among the characters
    end: np.ndarray
    first: np.ndarray  # of each text, the number of its first token; one more at the end


def tokens_of(codes: np.ndarray, kinds: np.ndarray, starts: np.ndarray) -> Tokens:
    han = (kinds == Kind.HAN) | (kinds == Kind.RARE_HAN)
    word = kinds >= Kind.LATIN
    before = np.concatenate(([False], word[:-1]))
    after = np.concatenate((word[1:], [False]))
    start = np.flatnonzero(han | (word & ~before))
    end = np.flatnonzero(han | (word & ~after)) + 1
    first = np.searchsorted(start, starts)
    text = np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(first))
    return Tokens(span_hash(codes, start, end), text, start, end, first)


def span_hash(codes: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """A polynomial in the characters of each span, from one running sum over all of them."""
    power, inverse = powers(BASE, len(codes)), powers(INVERSE, len(codes))
    sums = np.zeros(len(codes) + 1, dtype=np.uint64)
    np.cumsum(mixed(codes.astype(np.uint64)) * power, out=sums[1:])
    return mixed((sums[end] - sums[start]) * inverse[start] + (end - start).astype(np.uint64))


def powers(base: int, count: int) -> np.ndarray:
    held = _powers.get(base)
    if held is None or len(held) < count:
        held = np.full(max(count, 1 << 20), base, dtype=np.uint64)
        held[0] = 1
        _powers[base] = held = np.cumprod(held, dtype=np.uint64)
    return held[:count]


def mixed(values: np.ndarray) -> np.ndarray:
    """Every bit depends on every bit (the finalizer of splitmix64, shortened)."""
    values = (values ^ (values >> np.uint64(30))) * MIX
    return values ^ (values >> np.uint64(29))


def joined(hashes: np.ndarray, count: int) -> np.ndarray:
    """The hash of each `count` tokens in a row; shorter by count - 1."""
    n = max(0, len(hashes) - count + 1)
    total = np.zeros(n, dtype=np.uint64)
    for place in range(count):
        total = total * np.uint64(BASE) + hashes[place : place + n]
    return mixed(total)


def shingles(tokens: Tokens, group: np.ndarray, count: int = SHINGLE) -> tuple[np.ndarray, np.ndarray]:
    """(hashes, group of each) of every `count` tokens of one group; `group` of each token, rising."""
    hashes = joined(tokens.hash, count)
    inside = group[: len(hashes)] == group[count - 1 :] if len(hashes) else np.zeros(0, dtype=bool)
    return hashes[inside], group[: len(hashes)][inside]


def hashes_of(phrases: Iterable[str]) -> list[np.ndarray]:
    """The token hashes of each phrase, as they stand in any text."""
    phrases = list(phrases)
    tokens = tokens_of(*characters(phrases)[:3])
    return [tokens.hash[a:b] for a, b in zip(tokens.first[:-1], tokens.first[1:], strict=True)]
