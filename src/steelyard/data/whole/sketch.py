"""What one batch adds to what must be known of the whole set. Pure, small, made where the batch is judged.

Plain texts: the MinHash signature and the shingles. Chats: the tokens of what is asked and the sentences
of the last answer. Labelled texts: label and tokens.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..facts import CHAT, CODE, LABEL, PROSE, TABLE, Facts, Kind, mixed, shingles
from .near import signatures
from .store import Ragged

SENTENCE_TOKENS = 8  # shorter ones are what anyone says


@dataclass(frozen=True, slots=True)
class Sketch:
    """Of the rows of a batch, in order; the last four are of those rows that have them, by `*_rows`."""

    form: np.ndarray  # uint8
    words: np.ndarray  # int32
    language: np.ndarray  # uint8
    soft: np.ndarray  # uint32, a bit for each soft rule that fires
    near_rows: np.ndarray  # int32, rows of the batch that are plain texts
    signature: np.ndarray  # uint32 [near rows, PERMUTATIONS]
    shingles: Ragged  # uint64
    chat_rows: np.ndarray
    asked: Ragged  # uint64, tokens of the user's turns
    sentences: Ragged  # uint64, of the last answer
    label_rows: np.ndarray
    label: np.ndarray  # uint32
    tokens: Ragged  # uint64

    def take(self, rows: np.ndarray) -> Sketch:
        """Of these rows alone, in their order."""
        place = np.full(len(self.form), -1, dtype=np.int64)
        place[rows] = np.arange(len(rows))
        near, chat, label = (
            np.flatnonzero(place[r] >= 0) for r in (self.near_rows, self.chat_rows, self.label_rows)
        )
        return Sketch(
            self.form[rows], self.words[rows], self.language[rows], self.soft[rows],
            place[self.near_rows[near]], self.signature[near], self.shingles.take(near),
            place[self.chat_rows[chat]], self.asked.take(chat), self.sentences.take(chat),
            place[self.label_rows[label]], self.label[label], self.tokens.take(label),
        )  # fmt: skip

    def replaced(self, rows: np.ndarray, other: Sketch) -> Sketch:
        """These rows as `other` has them, in order; the rest as they are."""
        stay = np.setdiff1d(np.arange(len(self.form)), rows)
        mine = self.take(stay)
        place = np.concatenate([stay, rows])
        order = np.argsort(place, kind="stable")
        parts: dict[str, Any] = {
            name: np.concatenate([getattr(mine, name), getattr(other, name)])[order]
            for name in ("form", "words", "language", "soft")
        }
        for names in (("near_rows", "signature", "shingles"), ("chat_rows", "asked", "sentences"),
                      ("label_rows", "label", "tokens")):  # fmt: skip
            at = np.concatenate([stay[getattr(mine, names[0])], rows[getattr(other, names[0])]])
            by = np.argsort(at, kind="stable")
            parts[names[0]] = at[by]
            for name in names[1:]:
                parts[name] = both(getattr(mine, name), getattr(other, name), by)
        return Sketch(**parts)


def both(mine: np.ndarray | Ragged, other: np.ndarray | Ragged, order: np.ndarray) -> np.ndarray | Ragged:
    if isinstance(mine, Ragged) and isinstance(other, Ragged):
        values = np.concatenate([mine.values, other.values])
        return Ragged(values, np.concatenate([mine.lengths, other.lengths])).take(order)
    return np.concatenate([mine, other])[order]


def sketch_of(facts: Facts, soft: np.ndarray, near: bool) -> Sketch:
    texts = np.flatnonzero(facts.in_form(PROSE, CODE, TABLE) & (facts.shingles > 0) & near)
    chats, labels = np.flatnonzero(facts.form == CHAT), np.flatnonzero(facts.form == LABEL)
    pieces = text_shingles(facts, texts)
    asked, sentences = chat_pieces(facts, chats)
    words = Ragged(facts.tokens.hash, np.diff(facts.tokens.first))
    return Sketch(
        facts.form, facts.words.astype(np.int32), facts.language.astype(np.uint8), soft,
        texts.astype(np.int32), signatures(pieces), pieces,
        chats.astype(np.int32), asked, sentences,
        labels.astype(np.int32), np.array([label_of(facts, int(r)) for r in labels], dtype=np.uint32),
        words.take(facts.first[labels]),
    )  # fmt: skip


def label_of(facts: Facts, row: int) -> int:
    return zlib.crc32(str((facts.rows[row].raw or {}).get("label")).encode("utf-8", "replace"))


def text_shingles(facts: Facts, rows: np.ndarray) -> Ragged:
    """Of the first text of these rows."""
    wanted = np.zeros(len(facts.texts), dtype=bool)
    wanted[facts.first[rows]] = True
    hashes, of = shingles(facts.tokens, facts.tokens.text)
    inside = wanted[of]
    number = np.cumsum(wanted) - 1
    return Ragged.of(hashes[inside], number[of[inside]], len(rows))


def chat_pieces(facts: Facts, rows: np.ndarray) -> tuple[Ragged, Ragged]:
    """(tokens of the user's turns, hashes of the long sentences of the last answer)."""
    size, hashes, text = sentences_of(facts)
    asked, said = [], []
    first = facts.tokens.first
    sentence_first = np.searchsorted(text, np.arange(len(facts.texts) + 1))
    for row in rows.tolist():
        user, answer = turns(facts, row)
        asked.append(
            np.concatenate([facts.tokens.hash[first[t] : first[t + 1]] for t in user] or [hashes[:0]])
        )
        a, b = (sentence_first[answer], sentence_first[answer + 1]) if answer >= 0 else (0, 0)
        long = hashes[a:b][size[a:b] >= SENTENCE_TOKENS]
        said.append(np.unique(long))
    return ragged(asked), ragged(said)


def ragged(pieces: list[np.ndarray]) -> Ragged:
    values = np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.uint64)
    return Ragged(values, np.array([len(p) for p in pieces], dtype=np.int64))


def turns(facts: Facts, row: int) -> tuple[list[int], int]:
    """(numbers of the user's texts, that of the last answer or -1)."""
    number, user, answer = int(facts.first[row]), [], -1
    for message in facts.rows[row].messages or ():
        if message["role"] == "user":
            user.append(number)
        elif message["role"] == "assistant":
            answer = number
        number += 1 + ("reasoning_content" in message) + len(message.get("tool_calls", ()))
    return user, answer


def sentences_of(facts: Facts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every sentence: (how many tokens, its hash, its text)."""
    tokens = facts.tokens
    if not len(tokens.hash):
        empty = np.zeros(0, dtype=np.int64)
        return empty, empty.astype(np.uint64), empty
    ends = np.cumsum((facts.kinds == Kind.END) | (facts.kinds == Kind.NEWLINE))
    mark = ends[tokens.start]
    new = np.concatenate(([True], (mark[1:] != mark[:-1]) | (tokens.text[1:] != tokens.text[:-1])))
    first = np.flatnonzero(new)
    size = np.diff(np.concatenate((first, [len(mark)])))
    place = np.arange(len(mark)) - np.repeat(first, size)
    total = np.add.reduceat(mixed(tokens.hash + mixed(place.astype(np.uint64) + np.uint64(1))), first)
    return size, mixed(total), tokens.text[first]
