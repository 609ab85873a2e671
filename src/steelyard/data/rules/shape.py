"""What counts alone say of a text: repetition, gibberish, heaps of words, number soup, lists of links.

Each rule takes the facts of a batch and gives one truth value a row; which forms it is for stands in the
table."""

from __future__ import annotations

import re

import numpy as np

from ..facts import CODE, Facts, Kind

# Calibrated on the labelled dev corpus and on four sets of task rows: see docs/decisions/172.
REPEATED_SHINGLES = 0.4  # different ones among all; a refrain leaves three quarters
SHINGLES_LEAST = 20
RUN_CHARS, RUN_SHARE = 90, 0.2  # of one character in a row; a ruled line has eighty
STUFFED_DISTINCT = 0.3  # words of a list of search terms
ODD_SHARE = 0.35  # of the words: letters and digits mixed, no vowel
RARE_HAN_SHARE = 0.3  # of the ideographs
MISPLACED_SHARE, MISPLACED_LEAST = 0.15, 3  # "the of", "a is": prose has next to none
USUAL_PAIRS, PAIRS_LEAST = (
    0.125,
    30,
)  # neighbouring ideographs that usually are neighbours: a shuffled text has 0.1
CLAUSE = re.compile("[\u3400-\u9fff]+")
VERSE_LENGTHS, VERSE_LEAST, VERSE_SHARE = (4, 5, 6, 7), 4, 0.55  # ideographs of a line; lines; of all lines
DIGIT_SHARE = 0.5
SIGNS_OF_MATHS = 0.08
SINGLE_SHARE = 0.3  # words of one letter: "s y m p t o m"
URL = re.compile(
    r"https?://[^\s<>\"')\]，。]+|www\.[^\s<>\"')\]，。]+|(?<![\w.@/-])(?:[a-z0-9-]+\.)+[a-z]{2,10}/[^\s<>\"')\]，。]+"
)
ANCHOR = re.compile(r"<a\s+href=[\"']?|[\"']?>[^<>\n]{0,40}</a>|\[[^\]\n]{0,40}\]\(|\)(?=\s)")
BLOB = re.compile(r"[A-Za-z0-9+/=_\-]{200,}")
HYPHENS = re.compile(r"[a-z]-\n[a-z]")


def repetition(facts: Facts) -> np.ndarray:
    """A line, a phrase or a word again and again."""
    few = facts.distinct_shingles <= REPEATED_SHINGLES * facts.shingles
    return few & (facts.shingles >= SHINGLES_LEAST)


def repeated_chars(facts: Facts) -> np.ndarray:
    """One character in a row, or two in turns, for a fifth of the text or more."""
    codes = facts.codes
    if len(codes) < RUN_CHARS:
        return np.zeros(len(facts), dtype=bool)
    changes = np.flatnonzero(np.concatenate(([True], codes[2:] != codes[:-2])))
    lengths = np.diff(np.concatenate((changes, [len(codes) - 1])))
    first = facts.kinds[np.minimum(changes + 1, len(codes) - 1)]
    long = (lengths >= RUN_CHARS) & (first != Kind.SPACE) & (first != Kind.NEWLINE)
    most = np.zeros(len(facts), dtype=np.int64)
    np.maximum.at(most, facts.row_of(changes[long]), lengths[long])
    return most >= np.maximum(RUN_SHARE * facts.size, RUN_CHARS)


def keyword_stuffing(facts: Facts) -> np.ndarray:
    """Few words in ever new order between commas, without a sentence."""
    listed = facts.text_counts[:, Kind.COMMA] >= facts.words / 12
    in_one_line = facts.text_counts[:, Kind.NEWLINE] <= facts.words / 40
    in_one_line &= facts.text_counts[:, Kind.DIGIT] <= facts.words / 10
    no_sentence = facts.text_counts[:, Kind.END] <= facts.words / 60
    few = (facts.words >= 40) & (facts.distinct <= STUFFED_DISTINCT * facts.words)
    verse = facts.text_counts[:, Kind.NEWLINE] > facts.words / 25  # short lines: a rhyme, a table of sums
    return few & no_sentence & ((listed & ~verse) | in_one_line)


def number_soup(facts: Facts) -> np.ndarray:
    """Numbers without a table and without words."""
    shown = facts.size - facts.text_counts[:, Kind.SPACE] - facts.text_counts[:, Kind.NEWLINE]
    digits = facts.text_counts[:, Kind.DIGIT]
    return (digits >= DIGIT_SHARE * shown) & (facts.letters <= 0.1 * shown) & (facts.words >= 20)


def gibberish(facts: Facts) -> np.ndarray:
    """Words that no language has, ideographs that no text uses."""
    han, rare = facts.text_counts[:, Kind.HAN], facts.text_counts[:, Kind.RARE_HAN]
    latin = (facts.odd > ODD_SHARE * facts.words) & (facts.words >= 15) & (han + rare < 0.2 * facts.letters)
    return latin | ((rare > RARE_HAN_SHARE * (han + rare)) & (han + rare >= 20))


def word_salad(facts: Facts) -> np.ndarray:
    """Words or ideographs in an order that no grammar gives."""
    asked, wrong = facts.misplaced[:, 0], facts.misplaced[:, 1]
    pairs, usual = facts.han_pairs[:, 0], facts.han_pairs[:, 1]
    heap = (wrong >= MISPLACED_LEAST) & (wrong > MISPLACED_SHARE * asked)
    unusual = (pairs >= PAIRS_LEAST) & (usual < USUAL_PAIRS * pairs)
    return heap | confirmed(facts, unusual, lambda text: not is_verse(text))


def is_verse(text: str) -> bool:
    """Old verse pairs its ideographs as nobody speaks, but its lines have all the same length."""
    lengths = [len(line) for line in CLAUSE.findall(text)]
    same = max((n for n in set(lengths) if n in VERSE_LENGTHS), key=lengths.count, default=0)
    return lengths.count(same) >= max(VERSE_LEAST, VERSE_SHARE * len(lengths))


def scanned(facts: Facts) -> np.ndarray:
    """Letters with spaces between them, words cut at line ends: a page read by a machine."""
    signs = facts.text_counts[:, Kind.SYMBOL] >= SIGNS_OF_MATHS * facts.size  # x, y and n stand alone there
    spaced = (facts.single >= SINGLE_SHARE * facts.words) & (facts.words >= 20) & ~signs
    han = facts.text_counts[:, Kind.HAN] + facts.text_counts[:, Kind.RARE_HAN]
    apart = (
        (han >= 20) & (facts.han_pairs[:, 0] <= 0.2 * han) & (facts.text_counts[:, Kind.SPACE] >= 0.6 * han)
    )
    cut = np.zeros(len(facts), dtype=bool)
    for row in np.flatnonzero(facts.text_counts[:, Kind.NEWLINE] >= 3).tolist():
        lines = int(facts.text_counts[row, Kind.NEWLINE])
        cut[row] = facts.text(row).count("-\n") >= 3 and len(HYPHENS.findall(facts.text(row))) >= 0.5 * lines
    return spaced | apart | cut


def link_farm(facts: Facts) -> np.ndarray:
    """Addresses and little else."""
    signs = (facts.text_counts[:, Kind.SYMBOL] >= 0.06 * facts.size) & (facts.form != CODE)
    return confirmed(facts, facts.has("url") | (signs & (facts.words >= 15)), is_link_farm)


def is_link_farm(text: str) -> bool:
    links = URL.findall(text)
    if len(links) < 5:
        return False
    shown = len(text) - sum(map(len, ANCHOR.findall(text)))  # the marks round a link are a part of it
    return sum(map(len, links)) >= 0.6 * shown


def blob(facts: Facts) -> np.ndarray:
    """Base64 and its like, for half of the text or more."""
    return confirmed(facts, (facts.size >= 400) & (facts.longest >= 20), is_blob)


def is_blob(text: str) -> bool:
    return sum(map(len, BLOB.findall(text))) >= 0.5 * len(text)


def confirmed(facts: Facts, suspects: np.ndarray, test) -> np.ndarray:
    """The suspects whose text passes the closer look."""
    out = np.zeros(len(facts), dtype=bool)
    for row in np.flatnonzero(suspects).tolist():
        out[row] = test(facts.text(row))
    return out
