"""Placeholders for what a token classifier finds in prose: one person, one placeholder throughout a row.

"Hale" and "Mr Hale" are Tom Hale where no other Hale stands in the row. What the checks of numbers and labels
have replaced already is left alone. Not here: the classifier (tagger.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from .tagger import WIDE, Span, Tagger

PLACEHOLDERS = re.compile(r"<[A-Z]+(?:_\d+)?>")
TITLES = {"mr", "mrs", "ms", "miss", "dr", "prof", "sir", "madam", "lady", "lord"}
EDGE = " \t\n\r.,;:!?\"'“”‘’()[]，。；：！？（）「」"
LEAST = 2  # characters of a name: an initial names nobody
Tag = Callable[[str, str], str]


def redact_prose(parts: Sequence[str], spans_of: Tagger, tag: Tag, known: Mapping[str, str]) -> list[str]:
    """The texts with a tag for each span. `known`: names that stood behind a label -> their placeholder."""
    found = [[(s, value) for s in spans_of(part) if (value := usable(part, s))] for part in parts]
    names = [value for spans in found for span, value in spans if span.kind == "NAME"]
    people = persons([*known, *names])
    out = [replaced(part, spans, people, tag) for part, spans in zip(parts, found, strict=True)]
    return [everywhere(part, names, people, tag) for part in out]


def everywhere(text: str, names: Sequence[str], people: Mapping[str, str], tag: Tag) -> str:
    """A whole name that was named once is replaced where the classifier passed it over."""
    for name in dict.fromkeys(names):
        if name in text and (" " in name or WIDE.match(name)):
            pattern = rf"(?<!\w){re.escape(name)}(?!\w)" if not WIDE.match(name) else re.escape(name)
            text = re.sub(pattern, replacement(tag, bare(people[name])), text)
    return text


def replacement(tag: Tag, key: str) -> Callable[[re.Match[str]], str]:
    return lambda match: tag("NAME", key)


def usable(text: str, span: Span) -> str:
    """The words of a span, without the marks at its ends; "" where it is no name or is replaced already."""
    value = text[span.start : span.end].strip(EDGE)
    if len(value) < LEAST or PLACEHOLDERS.search(value) or not any(c.isalpha() for c in value):
        return ""
    inside = any(m.start() < span.end and span.start < m.end() for m in PLACEHOLDERS.finditer(text))
    return "" if inside else value


def replaced(text: str, spans: Sequence[tuple[Span, str]], people: Mapping[str, str], tag: Tag) -> str:
    out, end = [], 0
    for span, value in spans:
        start, last = whole_words(text, text.index(value, span.start), len(value))
        if start < end:
            continue
        key = people.get(value, value) if span.kind == "NAME" else value
        out += [text[end:start], tag(span.kind, bare(key))]
        end = last
    return "".join([*out, text[end:]])


def whole_words(text: str, start: int, length: int) -> tuple[int, int]:
    """A tokenizer may cut a word: what is left of it would still tell the name."""
    end = start + length
    while start and is_word(text[start - 1]) and is_word(text[start]):
        start -= 1
    while end < len(text) and is_word(text[end]) and is_word(text[end - 1]):
        end += 1
    return start, end


def is_word(char: str) -> bool:
    return char.isalnum() and not WIDE.match(char)


def bare(value: str) -> str:
    return "".join(c for c in value.casefold() if c.isalnum())


def persons(names: Sequence[str]) -> dict[str, str]:
    """Each name -> the fullest name of the same person in the row: the only one that has all of its words."""
    words = {name: frozenset(words_of(name)) for name in dict.fromkeys(names)}
    out = {}
    for name, own in words.items():
        fuller = [other for other, theirs in words.items() if own and own < theirs]
        full = [one for one in fuller if not any(words[one] < words[other] for other in fuller)]
        out[name] = full[0] if len({words[one] for one in full}) == 1 else same(name, own, words)
    return out


def same(name: str, own: frozenset[str], words: Mapping[str, frozenset[str]]) -> str:
    """The first that is written with the same words."""
    return next((other for other, theirs in words.items() if theirs == own), name)


def words_of(name: str) -> list[str]:
    return [word for word in re.findall(r"\w+", name.casefold()) if word not in TITLES]
