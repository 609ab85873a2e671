"""E-mail addresses, also spelled out, and phone numbers: how they look, and what only looks so."""

from __future__ import annotations

import re

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
DIGIT = re.compile(r"[0-9]")
NORTH_AMERICA = re.compile(r"\+1|1[ .\-(]")
# lucia [at] mail [dot] com; a bare " at " counts only before a dot in words
OBFUSCATED = re.compile(
    r"(?<![\w.+\-])[A-Za-z0-9][\w+\-]*(?:(?:\.|\s*[\[({]\s*(?:dot|点)\s*[\])}]\s*|\s+DOT\s+)[\w+\-]+){0,8}"
    r"(?:\s*(?:[\[({<]\s*(?:at|AT|At|@)\s*[\])}>]|＠)\s*|\s+AT\s+|\s+at\s+(?=[\w\-]+\s*[\[({]\s*dot))"
    r"[A-Za-z0-9][\w\-]*(?:(?:\.|\s*[\[({]\s*(?:dot|DOT|Dot|点)\s*[\])}]\s*|\s+(?:DOT|"
    r"dot)\s+)[A-Za-z][\w\-]*){1,8}"
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


def spelled_out(text: str) -> str:
    """The address that the words say: the same number as where it is written plainly."""
    plain = re.sub(r"\s*[\[({<]?\s*\b(?:dot|点)\b\s*[\])}>]?\s*", ".", text.lower())
    return re.sub(r"\s*[\[({<]?\s*(?:\bat\b|[@＠])\s*[\])}>]?\s*", "@", plain)
