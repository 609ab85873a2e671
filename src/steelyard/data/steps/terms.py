"""On which terms a row may be used: its `licence` (or `license`) and `consent`, as it brought them.

They are counted always, and demanded where the recipe says so: `licences: [...]`, `consent: required`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..row import Row
from .finding import Finding, Rules

GIVEN, REFUSED = "given", "refused"
YES = frozenset(
    [
        "true",
        "yes",
        "y",
        "1",
        "given",
        "granted",
        "obtained",
        "agreed",
        "是",
        "有",
        "同意",
        "已同意",
        "已授权",
        "授权",
    ]
)
NO = frozenset(
    [
        "false",
        "no",
        "n",
        "0",
        "refused",
        "denied",
        "withdrawn",
        "revoked",
        "none",
        "否",
        "无",
        "不同意",
        "未同意",
        "未授权",
        "拒绝",
        "已撤回",
    ]
)


def terms(row: Row, rules: Rules) -> tuple[Row, list[Finding]]:
    """`licence`: none of those allowed; `consent`: not given."""
    if not rules.licences and not rules.consent:
        return row, []
    licence, consent = terms_of(row)
    out = []
    if rules.licences and plain(licence) not in {plain(one) for one in rules.licences}:
        out.append(Finding("licence", "drop"))
    if rules.consent == "required" and consent != GIVEN:
        out.append(Finding("consent", "drop"))
    return row, out


def terms_of(row: Row) -> tuple[str, str]:
    """(licence, consent: given, refused or its own word); "" where the row does not say."""
    raw = row.raw
    if not raw or not ("licence" in raw or "license" in raw or "consent" in raw):
        return "", ""
    return licence_of(raw), consent_of(raw)


def licence_of(raw: Mapping[str, Any]) -> str:
    """Several are one: a row under two licences is under both."""
    value = raw.get("licence") or raw.get("license")
    names = value if isinstance(value, list) else [value]
    return " + ".join(sorted(str(name).strip() for name in names if name))


def consent_of(raw: Mapping[str, Any]) -> str:
    value = raw.get("consent")
    word = "" if value is None else str(value).strip().casefold()
    return GIVEN if word in YES else REFUSED if word in NO else word


def plain(licence: str) -> str:
    """Apache 2.0, apache-2.0 and Apache_2.0 are one."""
    return "".join(c for c in licence.casefold() if c.isalnum() or c in ".+")
