"""Which two ideographs stand beside each other in Chinese: tells a text from shuffled characters.

han_pairs.txt holds the commonest pairs, as `bench/han_pairs.py` made them.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

import numpy as np

from .kinds import Kind, code_points
from .tokens import Tokens, mixed

BUCKETS = 1 << 20


def bucket(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    key = (first.astype(np.uint64) << np.uint64(32)) | second.astype(np.uint64)
    return (mixed(key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(44)).astype(np.int64)


@cache
def usual_pairs() -> np.ndarray:
    """bool [2^20]; a pair that is none of them has one chance in thirty of being taken for one."""
    text = resources.files(__package__).joinpath("han_pairs.txt").read_text(encoding="utf-8").strip()
    codes = code_points(text)
    table = np.zeros(BUCKETS, dtype=bool)
    table[bucket(codes[0::2], codes[1::2])] = True
    return table


def han_pairs(codes: np.ndarray, kinds: np.ndarray, tokens: Tokens, texts: int) -> np.ndarray:
    """int64 [texts, 2]: neighbouring ideographs, and how many of these pairs are usual."""
    han = (kinds[tokens.start] == Kind.HAN) | (kinds[tokens.start] == Kind.RARE_HAN)
    near = np.flatnonzero(han[:-1] & han[1:] & (tokens.end[:-1] == tokens.start[1:]))
    out = np.zeros((texts, 2), dtype=np.int64)
    if len(near):
        usual = usual_pairs()[bucket(codes[tokens.start[near]], codes[tokens.start[near + 1]])]
        out[:, 0] = np.bincount(tokens.text[near], minlength=texts)
        out[:, 1] = np.bincount(tokens.text[near[usual]], minlength=texts)
    return out
