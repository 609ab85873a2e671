"""Personal data and its placeholders: <EMAIL_1>, <PHONE_1>, <CARD_1> ...

One value has one number throughout a row, so a question and its answer stay consistent, and an answer
that was JSON is JSON afterwards. What fails its check stays: order numbers must survive.
Not here: the checks of numbers (numbers.py), keys (secrets.py), names and addresses (people.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import orjson

from ..row import Row
from . import numbers, people, secrets
from .finding import Finding, Rules
from .prose import redact_prose
from .tagger import Tagger, tagger

EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+\-/@])[A-Za-z0-9][A-Za-z0-9._%+\-]{0,63}@"
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?\.)+([A-Za-z]{2,24})(?![A-Za-z0-9\-@])"
)
FILE_ENDINGS = {"png", "jpg", "jpeg", "gif", "webp", "svg", "py", "js", "ts", "json", "md", "txt", "css"}
START = r"(?<![\w.+\-/=#&%$:@])(?<!\d )(?<!\d\()"
END = r"(?![\w/=@%])(?![.\-]\d)"
SEP = r"[ .\-]"
# Chinese text has no space before a number: only letters and digits of ASCII are a part of it.
NOT_IN = r"(?<![A-Za-z0-9.+\-/=_#&%$@])"
NOT_ON = r"(?![A-Za-z0-9_/=%])(?![.\-]\d)"
CHINA = r"(?:(?:\+|00)?86[ \-]?)?"
PHONES = (
    # Chinese mobile: 13x to 19x and eight more; 4-4 groups or none; +86, 0086 or 86 before it
    re.compile(rf"{NOT_IN}{CHINA}1[3-9]\d([ \-]?)\d{{4}}\1\d{{4}}{NOT_ON}"),
    # Chinese landline: area code 010, 02x or 0xxx, a dash or brackets, seven or eight digits
    re.compile(
        rf"{NOT_IN}{CHINA}(?:[(（]0(?:10|2\d|[3-9]\d{{2}})[)）] ?|0(?:10|2\d|[3-9]\d{{2}})[ \-])"
        rf"[2-9]\d{{2,3}}[ \-]?\d{{4}}{NOT_ON}"
    ),
    # North America: area and exchange start at 2; grouped 3-3-4, or ten digits after +1
    re.compile(
        rf"{START}(?:\+?1{SEP}?)?(?:\([2-9]\d{{2}}\) ?|[2-9]\d{{2}}{SEP})[2-9]\d{{2}}{SEP}\d{{4}}{END}"
    ),
    # any country, with its +
    re.compile(rf"(?<![\w.+\-/=#&%$@])\+[1-9]\d{{0,2}}(?:{SEP}?\(?\d{{1,5}}\)?){{2,6}}{END}"),
)  # fmt: skip
# A number that stands behind one of these is no phone number, however it looks.
NUMBER_OF = re.compile(
    r"(?:订单|单号|编号|序列号|流水号|工单|运单|快递|物流|账号|帐号|卡号|型号|批号|order|invoice|"
    r"ticket|serial|"
    r"tracking|account|sku|isbn|part|batch|version|ref(?:erence)?|\bid|\bno\.?)"
    r"(?:[ _]?(?:编号|号码|号|number|no\.?|id|#))?[\"']?\s{0,2}[:：#=是为]?\s{0,2}[\"'（(\[]?$",
    re.IGNORECASE,
)
CUE_CHARS = 24
TAGS = ("EMAIL", "PHONE", "CARD", "ID", "IBAN", "SSN", "PASSPORT", "IP", "KEY", "NAME", "ADDRESS", "ACCOUNT")
WORDS = {"ID": "id_number"}  # in the account, where the tag alone would not say it
BARE_TAG = re.compile(rf"([:\[,]\s*)(<(?:{'|'.join(TAGS)})_\d+>)(?=\s*[,}}\]])")
# lucia [at] mail [dot] com; a bare " at " counts only before a dot in words
OBFUSCATED = re.compile(
    r"(?<![\w.+\-])[A-Za-z0-9][\w+\-]*(?:(?:\.|\s*[\[({]\s*(?:dot|点)\s*[\])}]\s*|\s+DOT\s+)[\w+\-]+)*"
    r"(?:\s*(?:[\[({<]\s*(?:at|AT|At|@)\s*[\])}>]|＠)\s*|\s+AT\s+|\s+at\s+(?=[\w\-]+\s*[\[({]\s*dot))"
    r"[A-Za-z0-9][\w\-]*(?:(?:\.|\s*[\[({]\s*(?:dot|DOT|Dot|点)\s*[\])}]\s*|\s+(?:DOT|"
    r"dot)\s+)[A-Za-z][\w\-]*)+"
)
AT_WORDS = (
    "[at]",
    "(at)",
    "{at}",
    " AT ",
    "[AT]",
    "(AT)",
    "[dot]",
    "(dot)",
    "＠",
    "[ at ]",
    "[@]",
    "(@)",
    "<at>",
)


def personal(row: Row, rules: Rules) -> tuple[Row, list[Finding]]:
    """Count the personal data of the row (`report`), or replace it too (`mask`)."""
    if rules.pii == "off":
        return row, []
    parts, counts = redact(row.parts, tagger(rules.pii_model) if rules.pii_model else None)
    action = "redact" if rules.pii == "mask" else "report"
    findings = [Finding(kind, action, count) for kind, count in counts.items() if count]
    return (row.with_parts(parts) if findings and action == "redact" else row), findings


# What a masked text holds, here or by another tool: a model that learns to write it writes no address.
PLACEHOLDER = re.compile(
    rf"<(?:{'|'.join(TAGS)})(?:_\d+)?>|"
    r"\[(?:EMAIL|PHONE|NAME|ADDRESS|REDACTED)(?:_(?:ADDRESS|NUMBER))?(?:_\d+)?\]"
)


def has_placeholder(row: Row) -> bool:
    """An answer that training would teach holds a placeholder."""
    if row.messages is None:
        return False
    return any(PLACEHOLDER.search(text) for text in row.answers if "<" in text or "[" in text)


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


def redact(parts: Sequence[str], spans_of: Tagger | None = None) -> tuple[list[str], dict[str, int]]:
    """The texts with tags, and how many of each kind; numbering runs through all texts of a row.

    `spans_of`: a classifier that names people and addresses in prose, asked after all else is replaced.
    """
    tags = Tags()
    out = [redact_part(part, tags) for part in parts]
    out = [tags.named(part) for part in out] if tags.names else out
    return (redact_prose(out, spans_of, tags, tags.names) if spans_of else out), tags.counts


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
        text = secrets.PEM.sub(lambda m: tag("KEY", m[0]), text)
    if LONG_WORD.search(text):
        text = secrets.PREFIXED.sub(lambda m: tag("KEY", m[0]), text)
        text = secrets.LABELLED.sub(lambda m: inner("KEY", m, tag) if secrets.is_random(m) else m[0], text)
    return text


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


def spelled_out(text: str) -> str:
    """The address that the words say: the same number as where it is written plainly."""
    plain = re.sub(r"\s*[\[({<]?\s*\b(?:dot|点)\b\s*[\])}>]?\s*", ".", text.lower())
    return re.sub(r"\s*[\[({<]?\s*(?:\bat\b|[@＠])\s*[\])}>]?\s*", "@", plain)


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
        text = people.NAME_EN.sub(lambda m: inner("NAME", m, tag), text)
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
DIGIT = re.compile(r"[0-9]")
SEVEN_DIGITS = re.compile(r"[0-9](?:[ .\-()（）]{0,2}[0-9]){6}")  # nothing shorter is a phone number
NORTH_AMERICA = re.compile(r"\+1|1[ .\-(]")


def is_no_email(match: re.Match[str]) -> bool:
    """An image name (logo@2x.png) or a repository address (git@host:path)."""
    after = match.string[match.end() : match.end() + 2]
    remote = len(after) == 2 and after[0] == ":" and (after[1].isalnum() or after[1] in "~/")
    return match[1].lower() in FILE_ENDINGS or (remote and match[0].startswith("git@"))


def is_no_phone(match: re.Match[str]) -> bool:
    before = match.string[max(0, match.start() - CUE_CHARS) : match.start()]
    digits = sum(c.isdigit() for c in match[0])
    return not 7 <= digits <= 15 or bool(NUMBER_OF.search(before))


def phone_key(number: str) -> str:
    """One number, however it is grouped; a country code of China or North America does not make another."""
    digits = "".join(DIGIT.findall(number)).removeprefix("00")
    if len(digits) == 13 and digits.startswith("861"):
        return digits[2:]
    return digits[1:] if len(digits) == 11 and NORTH_AMERICA.match(number) else digits


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
