"""E-mail addresses and phone numbers, and their placeholders: <EMAIL_1>, <PHONE_1>.

One value has one number throughout a row, so a question and its answer stay consistent, and an answer
that was JSON is JSON afterwards. What fails its number plan stays: order numbers must survive.
Not here: cards, identity numbers, names, addresses (a later issue).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import orjson

from ..row import Row
from .finding import Finding, Rules

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
    r"(?:订单|单号|编号|序列号|流水号|工单|运单|快递|物流|账号|帐号|卡号|型号|批号|order|invoice|ticket|serial|"
    r"tracking|account|sku|isbn|part|batch|version|ref(?:erence)?|\bid|\bno\.?)"
    r"(?:[ _]?(?:编号|号码|号|number|no\.?|id|#))?[\"']?\s{0,2}[:：#=是为]?\s{0,2}[\"'（(\[]?$",
    re.IGNORECASE,
)
CUE_CHARS = 24
BARE_TAG = re.compile(r"([:\[,]\s*)(<(?:EMAIL|PHONE)_\d+>)(?=\s*[,}\]])")


def personal(row: Row, rules: Rules) -> tuple[Row, list[Finding]]:
    """Count the e-mail addresses and phone numbers of the row (`report`), or replace them too (`mask`)."""
    if rules.pii == "off":
        return row, []
    parts, counts = redact(row.parts)
    action = "redact" if rules.pii == "mask" else "report"
    findings = [Finding(kind, action, count) for kind, count in counts.items() if count]
    return (row.with_parts(parts) if findings and action == "redact" else row), findings


# What a masked text holds, here or by another tool: a model that learns to write it writes no address.
PLACEHOLDER = re.compile(
    r"<(?:EMAIL|PHONE)(?:_\d+)?>|\[(?:EMAIL|PHONE|NAME|ADDRESS|REDACTED)(?:_(?:ADDRESS|NUMBER))?(?:_\d+)?\]"
)


def has_placeholder(row: Row) -> bool:
    """An answer that training would teach holds a placeholder."""
    return row.messages is not None and any(PLACEHOLDER.search(text) for text in row.answers)


def redact(parts: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    """The texts with tags, and how many of each kind; numbering runs through all texts of a row."""
    numbers: dict[str, dict[str, int]] = {"EMAIL": {}, "PHONE": {}}
    counts = {"email": 0, "phone": 0}

    def tag(kind: str, key: str) -> str:
        counts[kind.lower()] += 1
        return f"<{kind}_{numbers[kind].setdefault(key, len(numbers[kind]) + 1)}>"

    return [redact_part(part, tag) for part in parts], counts


def redact_part(text: str, tag: Callable[[str, str], str]) -> str:
    out = text
    if "@" in out:
        out = EMAIL.sub(lambda m: m[0] if is_no_email(m) else tag("EMAIL", m[0].lower()), out)
    if SEVEN_DIGITS.search(out):
        for pattern in PHONES:
            out = pattern.sub(lambda m: m[0] if is_no_phone(m) else tag("PHONE", phone_key(m[0])), out)
    return mend_json(text, out) if out is not text and out != text else text


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
