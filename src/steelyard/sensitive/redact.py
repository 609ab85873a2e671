"""Placeholders for personal data and keys: <EMAIL_1>, <PHONE_1>, <CARD_1> ...

One value has one number throughout a row, so a question and its answer stay consistent, and an answer
that was JSON is JSON afterwards. What fails its check stays: order numbers must survive.
Not here: how a value looks (numbers.py, contacts.py, secrets.py, people.py), spans in a stream (spans.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import orjson

from . import numbers, people, secrets
from .contacts import AT_WORDS, EMAIL, OBFUSCATED, PHONES, is_no_email, is_no_phone, phone_key, spelled_out

TAGS = ("EMAIL", "PHONE", "CARD", "ID", "IBAN", "SSN", "PASSPORT", "IP", "KEY", "NAME", "ADDRESS", "ACCOUNT")
WORDS = {"ID": "id_number"}  # in the account, where the tag alone would not say it
BARE_TAG = re.compile(rf"([:\[,]\s*)(<(?:{'|'.join(TAGS)})_\d+>)(?=\s*[,}}\]])")
# What a masked text holds, here or by another tool: a model that learns to write it writes no address.
PLACEHOLDER = re.compile(
    rf"<(?:{'|'.join(TAGS)})(?:_\d+)?>|"
    r"\[(?:EMAIL|PHONE|NAME|ADDRESS|REDACTED)(?:_(?:ADDRESS|NUMBER))?(?:_\d+)?\]"
)


@dataclass(slots=True)
class Tags:
    """The placeholders of one row: one value, one number, in all its texts."""

    numbered: dict[str, dict[str, int]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: {"email": 0, "phone": 0})
    names: dict[str, str] = field(default_factory=dict)  # of people, as written -> placeholder

    def __call__(self, kind: str, key: str) -> str:
        """The placeholder of a value; `key` is the value as it is compared."""
        word = WORDS.get(kind, kind.lower())
        self.counts[word] = self.counts.get(word, 0) + 1
        of_kind = self.numbered.setdefault(kind, {})
        return f"<{kind}_{of_kind.setdefault(key, len(of_kind) + 1)}>"

    def named(self, text: str) -> str:
        """A text with each name that stood behind a label replaced wherever else it stands."""
        for name, tag in self.names.items():
            if name in text:
                self.counts["name"] += text.count(name)
                text = text.replace(name, tag)
        return text


def redact_part(text: str, tag: Tags) -> str:
    """Keys come first and phones after all longer numbers, so that none is taken for a part of another."""
    out = secret_tags(text, tag)
    out = email_tags(out, tag)
    if out.count(".") >= 3:
        out = numbers.IPV4.sub(accepted("IP", numbers.is_ipv4, tag), out)
    if SEVEN_DIGITS.search(out):
        out = number_tags(out, tag)
    if out.count(":") >= 3:
        out = numbers.IPV6.sub(accepted("IP", numbers.is_ipv6, tag), out)
    out = people_tags(out, tag)
    return mend_json(text, out) if out is not text and out != text else text


def accepted(kind: str, check: Callable[[re.Match[str]], bool], tag: Tags) -> Callable[[re.Match[str]], str]:
    """The replacement of a match: its tag where the check accepts it, else itself."""
    return lambda m: tag(kind, bare(m[0])) if check(m) else m[0]


def bare(value: str) -> str:
    """A value without what groups it: one card however it is written."""
    return "".join(c for c in value.casefold() if c.isalnum())


def secret_tags(text: str, tag: Tags) -> str:
    if "-----BEGIN" in text:
        text = pem_tags(text, tag)
    if LONG_WORD.search(text):
        text = secrets.PREFIXED.sub(lambda m: tag("KEY", m[0]), text)
        text = secrets.LABELLED.sub(lambda m: inner("KEY", m, tag) if secrets.is_random(m) else m[0], text)
    return text


def pem_tags(text: str, tag: Tags) -> str:
    out, at = "", 0
    for pem in secrets.pems_in(text):
        if pem.end is not None:
            out += text[at : pem.start] + tag("KEY", text[pem.start : pem.end])
            at = pem.end
    return out + secrets.PEM_CUT.sub(lambda m: tag("KEY", m[0]), text[at:])


def inner(kind: str, match: re.Match[str], tag: Tags) -> str:
    """The match with a tag in place of its first group that holds something; what stands around it stays."""
    number = next(n for n in range(1, (match.re.groups or 0) + 1) if match[n])
    start, end = (place - match.start() for place in match.span(number))
    placeholder = tag(kind, bare(match[number]))
    if kind == "NAME":
        tag.names[match[number]] = placeholder
    return match[0][:start] + placeholder + match[0][end:]


def email_tags(text: str, tag: Tags) -> str:
    if "@" in text:
        text = EMAIL.sub(lambda m: m[0] if is_no_email(m) else tag("EMAIL", m[0].lower()), text)
    if any(word in text for word in AT_WORDS):
        text = OBFUSCATED.sub(lambda m: tag("EMAIL", spelled_out(m[0])), text)
    return text


def number_tags(text: str, tag: Tags) -> str:
    """Each check only where a number is long enough for it."""
    most = max(len(numbers.digits_of(m)) for m in LONG_NUMBER.findall(text))
    if most >= 10 and IBAN_START.search(text):
        text = numbers.IBAN.sub(accepted("IBAN", numbers.is_iban, tag), text)
    if most >= 13:
        text = numbers.CHINA_ID.sub(accepted("ID", numbers.is_china_id, tag), text)
        text = numbers.CARD.sub(accepted("CARD", numbers.is_card, tag), text)
    if most >= 9 and ("-" in text or " " in text):
        text = numbers.SSN.sub(accepted("SSN", numbers.is_ssn, tag), text)
    if "护照" in text or "通行证" in text or "assport" in text:
        text = numbers.PASSPORT.sub(lambda m: inner("PASSPORT", m, tag), text)
    for pattern in PHONES:
        text = pattern.sub(lambda m: m[0] if is_no_phone(m) else tag("PHONE", phone_key(m[0])), text)
    return text


LABELS_EN = (
    "name", "recipient", "addressee", " to:", "attn", "attention:", "contact", "passenger", "patient:",
    "applicant", "signed", "sender",
    "beneficiary", "payee", "consignee", "holder", "customer:", "client:", "tenant:", "next of kin",
    "insured", "guest",
)  # fmt: skip


def people_tags(text: str, tag: Tags) -> str:
    """Names and addresses behind a label, accounts of messengers; addresses of the usual form anywhere."""
    if (":" in text or "：" in text) and any(label in text.lower() for label in LABELS_EN):
        things = people.lists_things(text)
        text = people.NAME_EN.sub(
            lambda m: m[0] if things and people.is_bare(m) else inner("NAME", m, tag), text
        )
    if not text.isascii():
        text = numbers.ACCOUNT.sub(lambda m: inner("ACCOUNT", m, tag), text)
        text = people.NAME_ZH.sub(lambda m: inner("NAME", m, tag), text)
        text = people.ADDRESS_ZH.sub(
            lambda m: inner("ADDRESS", m, tag) if people.is_address_zh(m) else m[0], text
        )
        if "市" in text and "号" in text:
            text = people.PLACE_ZH.sub(lambda m: tag("ADDRESS", m[0]), text)
    if STREET_NUMBER.search(text):
        text = people.ADDRESS_EN.sub(lambda m: tag("ADDRESS", m[0]), text)
        text = people.ADDRESS_LABELLED_EN.sub(lambda m: inner("ADDRESS", m, tag), text)
    return text


STREET_NUMBER = re.compile(r"[0-9][A-Za-z]?,? [A-Z0-9]")
IBAN_START = re.compile(r"[A-Z]{2}[0-9]{2}")
LONG_NUMBER = re.compile(r"[0-9](?:[ .\-()（）]{0,2}[0-9]){6,}")
LONG_WORD = re.compile(r"[A-Za-z0-9_\-]{15}")
SECRET_WORDS = (
    "key",
    "secret",
    "token",
    "passw",
    "pwd",
    "auth",
    "bearer",
    "credential",
    "密钥",
    "密码",
    "口令",
    "令牌",
)
SEVEN_DIGITS = re.compile(r"[0-9](?:[ .\-()（）]{0,2}[0-9]){6}")  # nothing shorter is a phone number


def mend_json(before: str, after: str) -> str:
    """JSON stays JSON: a number that became a tag becomes a string."""
    if before.lstrip()[:1] not in ("{", "[") or not is_json(before) or is_json(after):
        return after
    return BARE_TAG.sub(r'\1"\2"', after)


def is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True
