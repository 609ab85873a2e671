"""Numbers that name a person or an account, each accepted by its own check: what fails it stays.

Luhn for cards, check digit and date for Chinese identity numbers, mod 97 for IBANs, number plans for the
rest."""

from __future__ import annotations

import re
from datetime import date
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from .contacts import CUE_CHARS, NOT_IN, NOT_ON

CHINA_ID = re.compile(r"(?<![A-Za-z0-9])\d{17}[\dXx](?![A-Za-z0-9])")
CARD = re.compile(
    rf"{NOT_IN}(?:\d{{13,19}}|\d{{4}}(?:[ \-]\d{{4}}){{2,3}}[ \-]\d{{1,4}}|"
    rf"\d{{4}}[ \-]\d{{6}}[ \-]\d{{5}}){NOT_ON}"
)
CARD_ISSUERS = re.compile(r"4|5[1-5]|2[2-7]|3[0-9]|6")  # ISO/IEC 7812, payment and banks
IBAN = re.compile(
    r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?:[A-Z0-9]{11,30}|"
    r"(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,3})?)(?![A-Za-z0-9])"
)
SSN = re.compile(rf"{NOT_IN}(?!000|666|9)\d{{3}}([- ])(?!00)\d{{2}}\1(?!0000)\d{{4}}{NOT_ON}")
PASSPORT = re.compile(
    r"(?:护照|通行证|passport)(?:号码|号|\s*+(?:no\.?|number|nr\.?|#))?\s*+(?:是|为|"
    r"is)?\s*+[:：#]?\s*+([A-Z]{1,2}\d{6,9}|\d{9})"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)
ACCOUNT = re.compile(
    r"(?:微信号?|(?<![A-Za-z])(?:vx|wx|v信)|薇信|微信\s?ID|wechat(?:\s?id)?|weixin|企业微信|QQ号?码?|扣扣|telegram|whatsapp|skype|line\s?id)"
    r"\s*+(?:是|为|is)?\s*+[:：]?\s*+(@?[A-Za-z][A-Za-z0-9_\-]{4,31}|[1-9]\d{4,11})(?![A-Za-z0-9_@])",
    re.IGNORECASE,
)
IPV4 = re.compile(r"(?<![\w.\-/])(?:\d{1,3}\.){3}\d{1,3}(?![\w\-]|\.\d)")
IPV6 = re.compile(
    r"(?<![\w:.])(?:[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{1,4}){0,7})?::?(?:[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{1,4}){0,7})?(?![\w:])"
)
VERSION_BEFORE = re.compile(
    r"(?:version|release|build|section|chapter|firmware|\bv\.?|\bver\.?|§|版本|固件|第)\s*[:：]?\s*$",
    re.IGNORECASE,
)
ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
ID_CHECKS = "10X98765432"
PROVINCES = {11, 12, 13, 14, 15, 21, 22, 23, 31, 32, 33, 34, 35, 36, 37, 41, 42, 43, 44, 45, 46, 50, 51,
             52, 53, 54,
             61, 62, 63, 64, 65, 71, 81, 82, 83}  # fmt: skip
# A number behind one of these is none of a person, whatever its check says.
GOODS = re.compile(
    r"(?:订单|单号|序列号|流水号|工单|运单|快递|物流|零件|物料|部件|型号|批[号次]|条码|order|invoice|ticket|"
    r"serial|tracking|sku|isbn|"
    r"part|batch|barcode|imei|commit|build)(?:[ _]?(?:编号|号码|号|number|no\.?|id|"
    r"#))?[\"']?\s{0,2}[:：#=是为]?\s{0,2}[\"'（(\[]?$",
    re.IGNORECASE,
)  # fmt: skip


def digits_of(text: str) -> str:
    return "".join(c for c in text if c in "0123456789")


def luhn(digits: str) -> bool:
    double = [sum(divmod(2 * int(c), 10)) for c in digits[-2::-2]]
    return (sum(double) + sum(map(int, digits[-1::-2]))) % 10 == 0


def is_card(match: re.Match[str]) -> bool:
    digits = digits_of(match[0])
    if len(digits) == 13 and digits[0] != "4":  # an article number; cards of thirteen digits begin with 4
        return False
    known = 13 <= len(digits) <= 19 and CARD_ISSUERS.match(digits) and len(set(digits)) > 1
    return bool(known) and luhn(digits) and not names_goods(match)


def is_china_id(match: re.Match[str]) -> bool:
    """GB 11643: a province, a day that was, and the check digit of ISO 7064 mod 11-2."""
    number = match[0].upper()
    check = ID_CHECKS[sum(w * int(c) for w, c in zip(ID_WEIGHTS, number, strict=False)) % 11]
    return int(number[:2]) in PROVINCES and number[17] == check and is_birthday(number[6:14])


def is_birthday(digits: str) -> bool:
    try:
        return (
            date(1890, 1, 1) <= date(int(digits[:4]), int(digits[4:6]), int(digits[6:])) <= date(2100, 1, 1)
        )
    except ValueError:
        return False


def is_iban(match: re.Match[str]) -> bool:
    text = match[0].replace(" ", "")
    moved = text[4:] + text[:4]
    return 15 <= len(text) <= 34 and int("".join(str(int(c, 36)) for c in moved)) % 97 == 1


def is_ssn(match: re.Match[str]) -> bool:
    return not names_goods(match)


def is_ipv4(match: re.Match[str]) -> bool:
    """An address on the internet: none of a private net, and no version."""
    before = match.string[max(0, match.start() - CUE_CHARS) : match.start()]
    try:
        address = IPv4Address(match[0])
    except AddressValueError:
        return False
    ours = address.is_private or address.is_loopback or address.is_multicast or address.is_unspecified
    return not ours and match[0].count(".0") < 3 and not VERSION_BEFORE.search(before)


def is_ipv6(match: re.Match[str]) -> bool:
    try:
        address = IPv6Address(match[0])
    except AddressValueError:
        return False
    return not address.is_loopback and not address.is_unspecified and len(digits_and_letters(match[0])) >= 8


def digits_and_letters(text: str) -> str:
    return text.replace(":", "")


def names_goods(match: re.Match[str]) -> bool:
    before = match.string[max(0, match.start() - CUE_CHARS) : match.start()]
    return bool(GOODS.search(before))
