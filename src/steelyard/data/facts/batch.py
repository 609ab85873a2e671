"""The facts of a batch of rows: arrays of one entry a row, made in one pass over the characters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..row import Row
from .forms import forms_of
from .kinds import KINDS, Kind, characters
from .pairs import han_pairs
from .tokens import Tokens, shingles, tokens_of
from .words import (
    DETERMINER,
    LANGUAGE_BITS,
    LATIN_LANGUAGES,
    NOT_AFTER_D,
    NOT_AFTER_P,
    PREPOSITION,
    Cues,
    function_words,
)

LANGUAGES = (*LATIN_LANGUAGES, "zh", "ja", "ko", "ru", "ar", "other", "none")
LETTERS_LEAST = 20  # fewer name no language
FUNCTION_SHARE = 0.06  # of the words; a language in Latin letters without them is "none"


@dataclass(frozen=True, slots=True)
class Facts:
    """`text` is a row's first: all of a plain text's. Arrays have one entry a row unless they say more."""

    rows: list[Row]
    texts: list[str]  # every text of every row, in order
    first: np.ndarray  # of each row, the number of its first text; one more at the end
    starts: np.ndarray  # of each text, its place among the characters; one more at the end
    slow: np.ndarray  # rows whose texts were normalised as a whole
    codes: np.ndarray  # of each character
    kinds: np.ndarray
    tokens: Tokens
    row_of_token: np.ndarray
    form: np.ndarray
    counts: np.ndarray  # [rows, kinds], of all its texts
    text_counts: np.ndarray  # [rows, kinds], of its text
    words: np.ndarray  # tokens of its text
    distinct: np.ndarray  # different tokens of its text
    shingles: np.ndarray  # of its text
    distinct_shingles: np.ndarray
    longest: np.ndarray  # characters of the longest token of all its texts
    odd: np.ndarray  # tokens of its text that mix letters and digits, or are long without a vowel
    single: np.ndarray  # tokens of its text of one Latin letter
    han_pairs: np.ndarray  # [rows, 2], of its text: neighbours, usual ones
    misplaced: (
        np.ndarray
    )  # [rows, 2], of its text: places where grammar asks for a noun, and where none follows
    language: np.ndarray  # of its text, a number in LANGUAGES
    cues: np.ndarray  # uint32, of all its texts
    cue_bits: Mapping[str, int]  # of each group of cues

    def __len__(self) -> int:
        return len(self.rows)

    def text(self, row: int) -> str:
        return self.texts[self.first[row]]

    def row_of(self, places: np.ndarray) -> np.ndarray:
        """The row of each character, by its place."""
        text = np.searchsorted(self.starts, places, side="right") - 1
        return np.searchsorted(self.first, text, side="right") - 1

    def holds(self, mask: np.ndarray) -> np.ndarray:
        """Rows with a character of the mask."""
        out = np.zeros(len(self), dtype=bool)
        out[self.row_of(np.flatnonzero(mask))] = True
        return out

    def has(self, group: str) -> np.ndarray:
        """Rows with a cue of the group."""
        return (self.cues & self.cue_bits[group]) > 0

    @property
    def size(self) -> np.ndarray:
        """Characters of each row's text."""
        return np.maximum(self.text_counts.sum(axis=1), 1)

    @property
    def letters(self) -> np.ndarray:
        return self.text_counts[:, Kind.HAN :].sum(axis=1) - self.text_counts[:, Kind.DIGIT]

    def in_form(self, *forms: int) -> np.ndarray:
        return np.isin(self.form, forms)


def facts_of(rows: Sequence[Row], cues: Cues) -> Facts:
    """Pure; what it says of a row does not depend on the others."""
    parts = [row.parts or [""] for row in rows]
    texts = [text for some in parts for text in some]
    first = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(some) for some in parts], out=first[1:])
    codes, kinds, starts, slow = characters(texts)
    tokens = tokens_of(codes, kinds, starts)
    count = len(texts)
    row_of_text = np.repeat(np.arange(len(rows), dtype=np.int32), np.diff(first))
    by_text = counted(kinds, starts, count)
    own = first[:-1]
    hashes, of = shingles(tokens, tokens.text)
    flags = function_words()(tokens.hash)
    text_counts = by_text[own]
    words = np.bincount(tokens.text, minlength=count)
    return Facts(
        rows=list(rows),
        texts=texts,
        first=first,
        starts=starts,
        slow=np.isin(np.arange(len(rows)), row_of_text[slow]),
        codes=codes,
        kinds=kinds,
        tokens=tokens,
        row_of_token=row_of_text[tokens.text],
        form=forms_of(list(rows), [texts[n] for n in own], text_counts),
        counts=np.add.reduceat(by_text, own, axis=0) if len(rows) else by_text[:0],
        text_counts=text_counts,
        words=words[own],
        distinct=different(tokens.hash, tokens.text, count)[own],
        shingles=np.bincount(of, minlength=count)[own],
        distinct_shingles=different(hashes, of, count)[own],
        longest=most(tokens.end - tokens.start, row_of_text[tokens.text], len(rows)),
        odd=odd_words(codes, kinds, tokens, count)[own],
        single=single_letters(kinds, tokens, count)[own],
        han_pairs=han_pairs(codes, kinds, tokens, count)[own],
        misplaced=misplaced(flags, kinds, tokens, count)[own],
        language=languages(text_counts, votes(flags, tokens, count)[own], words[own]),
        cues=any_bits(cues(tokens.hash), row_of_text[tokens.text], len(rows)),
        cue_bits=cues.bits,
    )


def counted(kinds: np.ndarray, starts: np.ndarray, texts: int) -> np.ndarray:
    """int64 [texts, kinds]; the line end that follows a text is not its own."""
    lengths = np.diff(starts)
    place = np.repeat(np.arange(texts, dtype=np.int64) * KINDS, lengths) + kinds
    out = np.bincount(place, minlength=texts * KINDS).reshape(texts, KINDS)
    out[:, Kind.NEWLINE] -= 1
    return out


def different(hashes: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """How many different hashes each group has (40 bits of each are compared)."""
    keys = np.sort((group.astype(np.uint64) << np.uint64(40)) | (hashes >> np.uint64(24)))
    if not len(keys):
        return np.zeros(groups, dtype=np.int64)
    new = np.concatenate(([True], keys[1:] != keys[:-1]))
    return np.bincount((keys[new] >> np.uint64(40)).astype(np.int64), minlength=groups)


def most(values: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """The greatest value of each group; `group` rises."""
    out = np.zeros(groups, dtype=np.int64)
    if len(values):
        places = np.flatnonzero(np.concatenate(([True], group[1:] != group[:-1])))
        out[group[places]] = np.maximum.reduceat(values, places)
    return out


def any_bits(bits: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    out = np.zeros(groups, dtype=np.uint32)
    if len(bits):
        places = np.flatnonzero(np.concatenate(([True], group[1:] != group[:-1])))
        out[group[places]] = np.bitwise_or.reduceat(bits, places)
    return out


def odd_words(codes: np.ndarray, kinds: np.ndarray, tokens: Tokens, texts: int) -> np.ndarray:
    """Words like `x8bgm` or `krtplv`; a number is none, nor is a word of another alphabet."""
    vowel = np.zeros(128, dtype=bool)
    vowel[[ord(c) for c in "aeiouy"]] = True
    has_vowel = np.where(codes < 128, vowel[np.minimum(codes, 127)], kinds >= Kind.LATIN)
    latin, digits, vowels = (
        inside(mask, tokens) for mask in (kinds == Kind.LATIN, kinds == Kind.DIGIT, has_vowel)
    )
    odd = (latin > 0) & (digits > 0) | (latin >= 4) & (vowels == 0)
    return np.bincount(tokens.text[odd], minlength=texts)


def inside(mask: np.ndarray, tokens: Tokens) -> np.ndarray:
    """How many characters of each token are in `mask`."""
    sums = np.zeros(len(mask) + 1, dtype=np.int32)
    np.cumsum(mask, out=sums[1:])
    return sums[tokens.end] - sums[tokens.start]


def single_letters(kinds: np.ndarray, tokens: Tokens, texts: int) -> np.ndarray:
    single = (tokens.end - tokens.start == 1) & (kinds[tokens.start] == Kind.LATIN)
    return np.bincount(tokens.text[single], minlength=texts)


def misplaced(flags: np.ndarray, kinds: np.ndarray, tokens: Tokens, texts: int) -> np.ndarray:
    """int64 [texts, 2]: `the`, `of` and their like, and those that `is`, `and` ... follow: a heap of words.

    One space alone stands between the two: `the "in" of` speaks of a word.
    """
    asks = np.flatnonzero(flags[:-1] & (DETERMINER | PREPOSITION))
    one_apart = tokens.start[asks + 1] - tokens.end[asks] == 1
    asks = asks[one_apart & (kinds[tokens.end[asks]] == Kind.SPACE)]
    after = flags[asks + 1]
    wrong = ((flags[asks] & DETERMINER > 0) & (after & NOT_AFTER_D > 0)) | (
        (flags[asks] & PREPOSITION > 0) & (after & NOT_AFTER_P > 0)
    )
    out = np.zeros((texts, 2), dtype=np.int64)
    out[:, 0] = np.bincount(tokens.text[asks], minlength=texts)
    out[:, 1] = np.bincount(tokens.text[asks[wrong]], minlength=texts)
    return out


def votes(flags: np.ndarray, tokens: Tokens, texts: int) -> np.ndarray:
    """int64 [texts, Latin languages]: function words of each."""
    held = np.flatnonzero(flags & ((1 << LANGUAGE_BITS) - 1))
    of, bits = tokens.text[held], flags[held]
    return np.stack(
        [np.bincount(of[bits & (1 << n) > 0], minlength=texts) for n in range(LANGUAGE_BITS)], axis=1
    )


def languages(counts: np.ndarray, votes: np.ndarray, words: np.ndarray) -> np.ndarray:
    """By the script that has most letters; one ideograph or syllable weighs as three letters."""
    han = counts[:, Kind.HAN] + counts[:, Kind.RARE_HAN]
    kana = counts[:, Kind.KANA]
    scripts = np.stack([
        counts[:, Kind.LATIN], 3 * (han + kana), 3 * counts[:, Kind.HANGUL], counts[:, Kind.CYRILLIC],
        counts[:, Kind.ARABIC], counts[:, Kind.OTHER_LETTER],
    ], axis=1)  # fmt: skip
    script = scripts.argmax(axis=1)
    number = {name: n for n, name in enumerate(LANGUAGES)}
    out = np.array([number[n] for n in ("none", "zh", "ko", "ru", "ar", "other")])[script]
    out[(script == 1) & (kana >= 0.1 * (han + kana))] = number["ja"]
    best = votes.argmax(axis=1)
    clear = votes.max(axis=1) >= np.maximum(FUNCTION_SHARE * words, 2)
    latin = (script == 0) & clear
    out[latin] = best[latin]
    out[scripts.sum(axis=1) < LETTERS_LEAST] = number["none"]
    return out
