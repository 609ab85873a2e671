"""A text that comes in pieces, without the values that may not go out: none shows before it is judged.

Held back is only what may be growing into a value: mostly the last word. Of a key that goes on and on the
beginning and the last characters are held, and a hash of the rest, by which it is known again. What is given
out is, at each moment, a beginning of what the whole text would give, but for one thing: the very first word
of an answer does not wait where it is one of those that answers begin with (FIRST_WORDS), so an address that
begins with such a word shows it before its placeholder.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from .redact import Tags, bare
from .secrets import PEM_LINE_CHARS
from .spans import CONTEXT_CHARS, KEY_CHARS, KINDS, Span, growing_key, settled, spans_in

REFUSE, REDACT, REPORT = "refuse", "redact", "report"
WORDS = {"id_number": "ID"}
BEGINNINGS = """
A About Absolutely According After All Although An And Any Are As At Based Because Before Both But
By Can Certainly Could Currently Do Each Every Experience First For From Generally Given Good Great
Has Have He Hello Here Hi How However I If In Is It Its It's I'm I'd Let Let's Many Most My No None
Not Of Often Okay On One Our Please Several She Since So Some Sorry Sure Thank Thanks That The Their
There These They This Those To True False Under Unfortunately Used Using We Welcome Well What When
Where Which While Who Why With Yes Yet You Your
"""
FIRST_WORDS = frozenset(BEGINNINGS.split())
# Full-width letters and digits, and the many dashes and spaces: read as what they look like.
ALIKE = {0xFF01 + n: 0x21 + n for n in range(94) if chr(0x21 + n) not in "(),:;!?"}
ALIKE |= dict.fromkeys((0x2010, 0x2011, 0x2012, 0x2013, 0x2212), ord("-")) | dict.fromkeys(
    (0xA0, 0x2007, 0x202F, 0x3000), ord(" ")
)
UNSEEN = "\u200b\u200c\u200d\u2060\ufeff\u00ad"
# A run of backslashes is read in pieces, so that none is held without an end.
ESCAPED = re.compile(rf"\\{{1,64}}(?:u([0-9a-fA-F]{{4}})|([^u\n]))|[{UNSEEN}]+")
ESCAPE_BEGUN = re.compile(r"\\{1,64}(?:u[0-9a-fA-F]{0,3})?\Z")
CONTROLS = dict(zip("nrtbf", "\n\r\t\b\f", strict=True))
HELD_KEY_CHARS = 3 * KEY_CHARS  # of a key that goes on, then its middle goes


class _Long:
    """A key whose middle is not held: a hash of what has gone by."""

    def __init__(self) -> None:
        self.hash, self.kept = hashlib.sha256(), 0

    def take(self, held: str) -> None:
        """The key as far as it is held, without what has been taken before."""
        self.hash.update(bare(held[self.kept :]).encode())


@dataclass(slots=True)
class Screen:
    """One text. `actions`: kind -> refuse | redact | report; a kind without one is not looked for.

    `counts` are the finds by kind; once `refused`, nothing more comes out. `tags` may be shared by several
    texts of one answer.
    """

    actions: Mapping[str, str]
    tags: Tags = field(default_factory=Tags)
    counts: Counter[str] = field(default_factory=Counter)
    refused: bool = False
    _raw: str = ""  # context that went out, and what is held
    _given: int = 0  # of it, what went out
    _floor: int = 0  # where a value may begin: before `_given` where a first word did not wait
    _at: int = 0  # where in the whole text `_raw` begins
    _quotes: int = 0  # quotation marks that went out, where the text is JSON
    _json: bool | None = None  # known with the first character
    _long: _Long | None = None  # the key that goes on

    @property
    def holds(self) -> bool:
        """Whether something may be changed, so that text has to wait."""
        return any(action != REPORT for action in self.actions.values())

    def push(self, text: str) -> str:
        """What may go out now."""
        return self._screened(text, whole=False)

    def end(self) -> str:
        """The rest."""
        return self._screened("", whole=True)

    def _screened(self, text: str, whole: bool) -> str:
        if self.refused or not self.actions:
            return "" if self.refused else text
        self._raw += text
        if self._json is None and (begun := self._raw.lstrip()):
            self._json = begun[0] in "{["
        plain, places = _plain(self._raw, whole)
        free = len(plain) if whole else settled(plain, "key" in self.actions)
        out = self._released(plain, places, free, whole)
        if "key" in self.actions and len(self._raw) - self._given > HELD_KEY_CHARS and not self.refused:
            out += self._shortened()
        if not self.holds:
            return text
        if not out and not self._at and self._given == 0 and not whole and not self.refused:
            return self._first_word()
        return out

    def _first_word(self) -> str:
        word = self._raw.strip()
        if word not in FIRST_WORDS:
            return ""
        self._given = len(self._raw)
        return self._raw

    def _released(self, plain: str, places: list[int] | None, free: int, whole: bool) -> str:
        """What of the text up to `free` has not gone out yet, its values replaced."""
        first = bisect_left(places, self._floor) if places else self._floor
        if (places[free] if places else free) <= self._floor:
            return ""
        out = ""
        for span in spans_in(plain, self._kinds, first, None if whole else free):
            if span.end > free and span.start < free:  # such as a key whose last line may go on
                free = span.start
            if span.start >= free:
                break
            self.counts[span.kind] += 1
            action = self.actions[span.kind]
            if action == REPORT:
                continue
            start, end = (places[span.start], places[span.end]) if places else (span.start, span.end)
            out += self._passed(self._raw[self._given : max(start, self._given)])
            self._given = max(end, self._given)
            if action == REFUSE:
                self.refused = True
                return out
            out += self._placeholder(span, plain)
        limit = max(places[free] if places else free, self._given)
        out += self._passed(self._raw[self._given : limit])
        self._given = self._floor = limit
        self._forget()
        return out

    @property
    def _kinds(self) -> tuple[str, ...]:
        return tuple(kind for kind in KINDS if kind in self.actions)

    def _passed(self, text: str) -> str:
        if self._json:
            self._quotes += len(re.findall(r'(?<!\\)(?:\\\\)*"', text))
        return text

    def _placeholder(self, span: Span, plain: str) -> str:
        """JSON stays JSON: a number outside quotation marks becomes a string."""
        name = WORDS.get(span.kind, span.kind.upper())
        tag = self.tags(name, self._known_by(plain[span.start : span.end]))
        shown = f"[{tag[1:-1]}]"
        return f'"{shown}"' if self._json and self._quotes % 2 == 0 else shown

    def _known_by(self, value: str) -> str:
        if len(value) <= HELD_KEY_CHARS and self._long is None:
            return bare(value)
        long, self._long = self._long or _Long(), None
        long.take(value)
        return long.hash.hexdigest()

    def _shortened(self) -> str:
        """Let the middle of a key go that goes on: what of it goes out is for its action to say."""
        plain, places = _plain(self._raw, whole=False)
        if (key := growing_key(plain)) is None or len(plain) - key.start <= HELD_KEY_CHARS:
            return ""
        tail = len(plain) - PEM_LINE_CHARS
        if self.actions["key"] == REFUSE:
            self.counts["key"] += 1
            self.refused = True
            return ""
        self._long = self._long or _Long()
        self._long.take(plain[key.start : tail])
        self._long.kept = key.kept - key.start + 1
        kept, tail = (places[key.kept], places[tail]) if places else (key.kept, tail)
        out = ""
        if self.actions["key"] == REPORT:
            out = self._passed(self._raw[self._given : tail])
            self._given = kept + 1
        self._raw = self._raw[:kept] + key.between + self._raw[tail:]
        return out

    def _forget(self) -> None:
        """Keep what a later value's label may stand in."""
        spare = self._given - 2 * CONTEXT_CHARS
        if spare > CONTEXT_CHARS:
            self._raw, self._at = self._raw[spare:], self._at + spare
            self._given = self._floor = self._given - spare


def _plain(raw: str, whole: bool) -> tuple[str, list[int] | None]:
    """The text as it is read: escapes of JSON and Markdown undone, what nobody sees left out.

    Beside it the place in `raw` of each of its characters, and of its end; None where they are equal.
    """
    if not raw.isascii():
        raw = raw.translate(ALIKE)
    if "\\" not in raw and not (not raw.isascii() and any(c in raw for c in UNSEEN)):
        return raw, None
    stop = len(raw)
    if not whole and (begun := ESCAPE_BEGUN.search(raw)):
        stop = begun.start()
    out: list[str] = []
    places: list[int] = []
    at = 0
    for match in ESCAPED.finditer(raw, 0, stop):
        out.append(raw[at : match.start()])
        places += range(at, match.start())
        at = match.end()
        char = _meant(match)
        out.append(char)
        places += [match.start()] * len(char)
    out.append(raw[at:stop])
    places += range(at, stop)
    return "".join(out), [*places, stop]


def _meant(match: re.Match[str]) -> str:
    if match[1]:
        char = chr(int(match[1], 16))
        return "" if char in UNSEEN else char.translate(ALIKE)
    if not match[2]:
        return ""
    return CONTROLS.get(match[2], f" {match[2]}" if match[2].isalnum() else match[2])
