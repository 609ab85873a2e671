"""Where a text holds personal data or a key: kind, start and end of each value, by its own check.

A text that comes in pieces is looked at up to where no value can still be growing (`settled`). Not here: what
a value is replaced by (redact.py for rows, screen.py for streams).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from . import numbers, secrets
from .contacts import EMAIL, PHONES, is_no_email, is_no_phone

KINDS = (
    "key", "email", "ip", "iban", "id_number", "card", "ssn", "passport", "phone", "account",
)  # fmt: skip
SECRETS = ("key",)
USUAL = tuple(
    kind for kind in KINDS if kind not in ("ip", *SECRETS)
)  # a server's address is seldom a person's
LABEL_CHARS = 48
CONTEXT_CHARS = 128  # before a value: its label, and what stands before a number
NUMBER_CHARS = "0123456789 .-()（）+"
WORD_CHARS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.%+-@/=!#$^&*~:"
LONGEST_NUMBER = 64  # characters of a value written in groups
LONGEST_WORD = 512  # of one without a known beginning
KEPT_OF_WORD = 400  # the longest address that mail allows has 320
Check = Callable[[re.Match[str]], bool]
Places = Iterator[tuple[int, int]]
Finder = Callable[[str, int, bool], Places]  # text, where to begin, whether it ends here


@dataclass(frozen=True, slots=True, order=True)
class Span:
    start: int
    end: int
    kind: str


# Letters and digits of ASCII alone bound a number: Chinese text has no space before one.
NUMBERS_OF_PHONES = tuple(re.compile(pattern.pattern, re.ASCII) for pattern in PHONES)
IPV4 = re.compile(numbers.IPV4.pattern, re.ASCII)
IPV6 = re.compile(numbers.IPV6.pattern, re.ASCII)
PEM_BEGUN = re.compile(r"-{1,5}\Z|-----(?:B(?:E(?:G(?:I(?:N(?: [A-Z0-9 ]*-{0,4})?)?)?)?)?)?\Z")
IBAN_BEGUN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}[A-Z0-9 ]*\Z")
# A key whose beginning is known may be of any length: from KEY_CHARS on its word is one, whatever its form.
KEY_CHARS = 4096
BEGINNING = (
    r"(?<![A-Za-z0-9_\-])(?:sk-|[srp]k_|gh[pousr]_|github_pat_|gl[a-z]+-|xox|xapp-|AIza|ya29\.|hf_|npm_|pypi-|"
    r"SG\.|eyJ|shp|sq0|gsk_|tvly-|lin_api_|dop_v1_)"
)
KEY_BEGUN = re.compile(rf"{BEGINNING}[A-Za-z0-9_\-.]*\Z")
KEY_LONG = re.compile(rf"{BEGINNING}[A-Za-z0-9_\-.]{{{KEY_CHARS},}}+")
TOKEN_CUT = re.compile(r"(?<![A-Za-z0-9_\-])eyJ[A-Za-z0-9_\-]{10,}(?:\.[A-Za-z0-9_\-]*){0,2}\Z")
# An address that is spelled out, of bounded length; and its words as far as they have come.
NAME = r"[A-Za-z0-9][\w+\-.]{0,40}+"
PART = r"[A-Za-z0-9][\w\-]{0,40}+"
OPEN, CLOSE = r"\s{0,2}[\[({<]\s?", r"\s?[\])}>]\s{0,2}"
DOT = rf"(?:{OPEN}(?:dot|DOT|Dot){CLOSE}|\s{{1,2}}(?:dot|DOT)\s{{1,2}})"
AT = (
    rf"(?:{OPEN}(?:at|AT|At|@){CLOSE}|\s{{1,2}}AT\s{{1,2}}|"
    r"\s{1,2}at\s{1,2}(?=[\w\-]{1,40}+\s?[\[({]\s?dot))"
)
SPELLED_OUT = re.compile(
    rf"(?<![\w.+\-]){NAME}(?:{DOT}{NAME}){{0,2}}{AT}{PART}(?:(?:\.|{DOT}){PART}){{1,4}}", re.ASCII
)
MARK = rf"(?:{OPEN}(?:at|AT|At|@|dot|DOT|Dot){CLOSE}|\s{{1,2}}(?:AT|at|DOT|dot)\s{{1,2}})"
MARK_BEGUN = r"(?:\s{1,2}(?:[AaDd]|[Aa][Tt]|[Dd][Oo]|[Dd][Oo][Tt])?|\s{0,2}[\[({<]\s?(?:[AaDd@]\w{0,2}\s?)?)"
SPELLED_BEGUN = re.compile(rf"(?<![\w.+\-]){NAME}(?:{MARK}{NAME}){{0,7}}(?:{MARK}|{MARK_BEGUN})?\Z", re.ASCII)
OPENS = re.compile(r"[\[({<]| AT ")
SPELLED_CHARS = 400
MARKED = re.compile(r"[\[({<]|\s(?:at|AT|dot|DOT)\s|\s(?:[AaDd]|[Aa][Tt]|[Dd][Oo][Tt]?)?\Z")
DIGIT = re.compile(r"[0-9]")
SIX_DIGITS = re.compile(r"\d(?:\D{0,2}\d){5}")
ACCOUNTS = ("微信", "weixin", "wechat", "qq", "扣扣", "telegram", "whatsapp", "skype", "line")


def spans_in(
    text: str, kinds: tuple[str, ...] = KINDS, start: int = 0, stop: int | None = None
) -> list[Span]:
    """Values that begin from `start` on and before `stop`, in order and apart.

    Where two kinds overlap the first of KINDS stands. Without `stop` the text ends with its end, and a key
    that was cut off there counts too.
    """
    whole, stop = stop is None, len(text) if stop is None else stop
    taken: list[Span] = []
    for kind in KINDS:
        if kind in kinds:
            for first, last in _OF_KIND[kind](text, start, whole):
                if first >= stop:
                    continue  # it may not be what it seems yet
                if not any(first < span.end and span.start < last for span in taken):
                    taken.append(Span(first, last, kind))
    return sorted(taken)


def settled(text: str, keys: bool = True) -> int:
    """Up to where no value can still be growing, whatever comes next; without `keys` they are no values."""
    word = len(text.rstrip(WORD_CHARS))
    number = len(text.rstrip(NUMBER_CHARS))
    while number < len(text) and text[number] in " .-)）":
        number += 1
    if len(text) - number > LONGEST_NUMBER:
        number = len(text) - LONGEST_NUMBER
    pending = min(word, number)
    window = max(0, len(text) - LONGEST_NUMBER)
    if begun := IBAN_BEGUN.search(text, window):
        pending = min(pending, begun.start())
    pending = min(pending, _spelled_begun(text))
    if len(text) - word > LONGEST_WORD:
        begun = KEY_BEGUN.search(text, word) if keys else None
        pending = min(begun.start() if begun else len(text) - KEPT_OF_WORD, number)
    if keys and "-" in text and (pem := _pem_begun(text)) >= 0:
        pending = min(pending, pem)
    return pending


def _spelled_begun(text: str) -> int:
    """Where an address begins that may be spelled out; the end of the text where none does."""
    first = max(0, len(text) - SPELLED_CHARS)
    if not MARKED.search(text, first):
        return len(text)
    begun = SPELLED_BEGUN.search(text, first)
    return begun.start() if begun else len(text)


def _pem_begun(text: str) -> int:
    """Where a private key begins that has not ended; -1 where there is none."""
    if (pem := _open_pem(text)) is not None:
        return pem.start
    begun = PEM_BEGUN.search(text, max(0, len(text) - secrets.PEM_LINE_CHARS))
    return begun.start() if begun else -1


def _open_pem(text: str) -> secrets.Pem | None:
    if "-----BEGIN" not in text:
        return None
    return next((pem for pem in secrets.pems_in(text) if pem.end is None), None)


@dataclass(frozen=True, slots=True)
class GrowingKey:
    """A key that goes on, and is one whatever comes.

    What stands between `kept` and the last PEM_LINE_CHARS changes nothing about where it ends; `between`, in
    its place, neither.
    """

    start: int
    kept: int
    between: str


def growing_key(text: str) -> GrowingKey | None:
    if (pem := _open_pem(text)) is not None:
        return GrowingKey(pem.start, pem.body, "\n")
    word = len(text.rstrip(WORD_CHARS))
    if len(text) - word > KEY_CHARS and (key := KEY_LONG.search(text, word)) and key.end() == len(text):
        return GrowingKey(key.start(), key.start() + KEY_CHARS, ".")
    return None


# ------------------------------------------------------------------ each kind


def _all(pattern: re.Pattern[str], text: str, start: int, accepts: Check | None = None) -> Places:
    """Whole matches; after one that its check refuses the next may begin one character on."""
    at = start
    while match := pattern.search(text, at):
        if accepts is None or accepts(match):
            yield match.span()
            at = max(match.end(), at + 1)
        else:
            at = match.start() + 1


def _labelled(pattern: re.Pattern[str], text: str, start: int, accepts: Check | None = None) -> Places:
    """The first group of matches whose label may stand before `start`."""
    at = max(0, start - CONTEXT_CHARS)
    while match := pattern.search(text, at):
        place = match.span(1)
        if place[0] >= start and (accepts is None or accepts(match)):
            yield place
        at = match.start() + 1


def _keys(text: str, start: int, whole: bool) -> Places:
    pems = []
    if "-----BEGIN" in text:
        pems = [pem for pem in secrets.pems_in(text, start) if whole or pem.end is not None]
        yield from ((pem.start, pem.end or len(text)) for pem in pems)
    if len(text) - start > KEY_CHARS:
        for first, last in _all(KEY_LONG, text, start):
            yield first, min((pem.start for pem in pems if first < pem.start < last), default=last)
    yield from _all(secrets.PREFIXED, text, start)
    if DIGIT.search(text, start):
        yield from _labelled(secrets.LABELLED_VALUE, text, start, secrets.is_secret)
        yield from _labelled(secrets.PASSWORD, text, start, secrets.is_password)
    if whole and (cut := TOKEN_CUT.search(text, start)):
        yield cut.span()


def _emails(text: str, start: int, whole: bool) -> Places:
    if "@" in text[start:]:
        yield from _all(EMAIL, text, start, lambda m: not is_no_email(m))
    if OPENS.search(text, start):
        yield from _all(SPELLED_OUT, text, start)


def _phones(text: str, start: int, whole: bool) -> Places:
    if SIX_DIGITS.search(text, start):
        for pattern in NUMBERS_OF_PHONES:
            yield from _all(pattern, text, start, lambda m: not is_no_phone(m))


def _addresses(text: str, start: int, whole: bool) -> Places:
    if text.count(".", start) >= 3:
        yield from _all(IPV4, text, start, numbers.is_ipv4)
    if text.count(":", start) >= 3:
        yield from _all(IPV6, text, start, numbers.is_ipv6)


def _numbered(pattern: re.Pattern[str], accepts: Check) -> Finder:
    def each(text: str, start: int, whole: bool) -> Places:
        if SIX_DIGITS.search(text, start):
            yield from _all(pattern, text, start, accepts)

    return each


def _passports(text: str, start: int, whole: bool) -> Places:
    if DIGIT.search(text, start):
        yield from _labelled(numbers.PASSPORT, text, start)


def _accounts(text: str, start: int, whole: bool) -> Places:
    near = text[max(0, start - LABEL_CHARS) :].lower()
    if any(word in near for word in ACCOUNTS):
        yield from _labelled(numbers.ACCOUNT, text, start)


_OF_KIND: dict[str, Finder] = {
    "key": _keys,
    "email": _emails,
    "ip": _addresses,
    "iban": _numbered(numbers.IBAN, numbers.is_iban),
    "id_number": _numbered(numbers.CHINA_ID, numbers.is_china_id),
    "card": _numbered(numbers.CARD, numbers.is_card),
    "ssn": _numbered(numbers.SSN, numbers.is_ssn),
    "passport": _passports,
    "phone": _phones,
    "account": _accounts,
}
