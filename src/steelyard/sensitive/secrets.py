"""Keys and tokens: by their known prefixes, by PEM's frame, or by a label and their randomness."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

# "RSA", "OPENSSH", "PGP", "SSH2 ENCRYPTED": words without a bound would be held in a stream without one.
PEM_WORDS = r"(?:[A-Z0-9]{1,20} ){0,3}"
PEM_OPEN = re.compile(rf"-----BEGIN {PEM_WORDS}PRIVATE KEY(?: BLOCK)?-----")
PEM_CLOSE = re.compile(rf"-----END {PEM_WORDS}PRIVATE KEY(?: BLOCK)?-----")
PEM_LINE_CHARS = 128  # no line of the frame is longer
# A key that was cut off before its frame closes: as far as its lines go, so that the text behind them stays.
PEM_GAP = r"(?:\s|\\[nr]){1,8}+"
PEM_CUT = re.compile(
    rf"{PEM_OPEN.pattern}(?:{PEM_GAP}[A-Za-z\-]{{1,20}}: [^\n\\]{{0,100}}){{0,4}}"
    rf"(?:{PEM_GAP}[A-Za-z0-9+/]{{16,}}+={{0,2}})++(?:{PEM_GAP}[A-Za-z0-9+/]{{1,15}}+\s*\Z)?"
)
PREFIXED = re.compile(
    r"(?<![A-Za-z0-9_\-])(?:"
    r"sk-[A-Za-z0-9_\-]{20,}|[srp]k_(?:live|test)_[A-Za-z0-9]{16,}|(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}|"
    r"gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{40,}|gl(?:pat|dt|rt|ptt|"
    r"cbt)-[A-Za-z0-9_\-]{16,}|xox[abeoprs]-[A-Za-z0-9\-]{10,}|"
    r"xapp-[A-Za-z0-9\-]{20,}|AIza[0-9A-Za-z_\-]{30,}|ya29\.[0-9A-Za-z_\-]{20,}|"
    r"hf_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{36}|"
    r"pypi-[A-Za-z0-9_\-]{40,}|SG\.[A-Za-z0-9_\-]{16,}\.[A-Za-z0-9_\-]{16,}|"
    r"LTAI[0-9A-Za-z]{12,26}|AKID[0-9A-Za-z]{28,}|"
    r"dop_v1_[0-9a-f]{64}|shp(?:at|ss|pa|ca)_[0-9a-fA-F]{32}|key-[0-9a-f]{32}|(?:SK|"
    r"AC)[0-9a-f]{32}|sq0[a-z]{3}-[A-Za-z0-9_\-]{22,}|"
    r"eyJ[A-Za-z0-9_\-]{10,}\.[A-Za-z0-9_\-]{10,}\.[A-Za-z0-9_\-]{5,}|gsk_[A-Za-z0-9]{30,}|"
    r"tvly-[A-Za-z0-9\-]{20,}|lin_api_[A-Za-z0-9]{30,}"
    r")(?![A-Za-z0-9_\-])"
)
LABELS = (
    r"(?:api[_\- ]?key|app[_\- ]?(?:key|secret)|access[_\- ]?(?:key|token)(?:[_\- ]?id)?|"
    r"secret(?:[_\- ]?(?:access[_\- ]?)?key)?|"
    r"client[_\- ]?secret|auth(?:orization)?[_\- ]?(?:key|token)?|bearer|token|passw(?:or)?d|pwd|"
    r"passphrase|credential|private[_\- ]?key|"
    r"密钥|密码|口令|令牌)[\"']?\s*+(?:is|是|"
    r"为)?\s*+[:=：]?>?\s*+[\"']?"
)
VALUE = r"[A-Za-z0-9_\-+/=.!@#$%^&*~]"
# Looked for no further than a value goes: a long word of labels would be read once for each of them.
BEFORE = rf"{VALUE}{{0,199}}"
LABELLED = re.compile(
    rf"{LABELS}((?=[^\s\"',;]{{0,199}}\d)(?=[^\s\"',;]{{0,199}}[A-Za-z]){VALUE}{{12,200}})",
    re.IGNORECASE,
)
# The same where a text comes in pieces: nothing behind the value decides.
LABELLED_VALUE = re.compile(rf"{LABELS}((?={BEFORE}\d)(?={BEFORE}[A-Za-z]){VALUE}{{12,200}})", re.IGNORECASE)
# A password may be short where its label is followed by a mark, or by a verb and stands in an answer.
PASSWORD = re.compile(
    r"(?:passw(?:or)?d|pwd|passphrase|passcode|密码|口令)[\"'*`]{0,3}\s{0,2}(?:(?:is|was|是|为)\s{0,2}[:：]?|[:=：])\s{0,2}"
    rf"[\"'*`]{{0,3}}((?={BEFORE}\d)(?={BEFORE}[A-Za-z!@#$%^&*~]){VALUE}{{6,64}})(?!{VALUE})",
    re.IGNORECASE,
)
RANDOM_BITS = 3.3  # a character; words and paths have fewer, or no digits
HEX_BITS = 2.9


@dataclass(frozen=True, slots=True)
class Pem:
    """A private key in its frame: where it starts, where its first line ends, and its end, if it has one."""

    start: int
    body: int
    end: int | None


def pems_in(text: str, start: int = 0) -> Iterator[Pem]:
    """In order and apart; the last may have no end. Each place of the text is read once."""
    while opened := PEM_OPEN.search(text, start):
        closed = PEM_CLOSE.search(text, opened.end())
        yield Pem(opened.start(), opened.end(), closed.end() if closed else None)
        if closed is None:
            return
        start = closed.end()


CODE_VALUE = re.compile(r"^[A-Za-z_]+(?:\.[A-Za-z_]+)+$|^[$%#&]|^https?:|/{2}")
EXAMPLE_WORDS = re.compile(
    r"your|example|placeholder|changeme|change_me|redacted|xxxx|\*{3}|min_|max_|length|char", re.IGNORECASE
)


def is_secret(match: re.Match[str]) -> bool:
    """A random value that stands for no other: `your_api_key_1` is an example."""
    return is_random(match) and not EXAMPLE_WORDS.search(match[1])


def is_password(match: re.Match[str]) -> bool:
    """A value that somebody chose: no variable, no path of code, no example."""
    value = match[1].rstrip(".!")
    return len(value) >= 6 and not CODE_VALUE.search(value) and not EXAMPLE_WORDS.search(value)


def is_random(match: re.Match[str]) -> bool:
    """A value of letters and digits that no person would choose as a word."""
    value = match[1]
    bits = entropy(value)
    is_hex = all(c in "0123456789abcdefABCDEF-" for c in value)
    return bits >= (HEX_BITS if is_hex else RANDOM_BITS) and not re.search(
        r"[a-z]{9,}|\.\w{2,4}$|^[\w.]+\(", value
    )


def entropy(text: str) -> float:
    """Bits a character, by the text's own counts."""
    counts = Counter(text).values()
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts)
