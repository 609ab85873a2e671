"""What is shown of a row: its verdict, what was met in it, its texts with personal data replaced."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from ..facts import FORMS, LANGUAGES, PROSE, facts_of
from ..row import Row
from ..rules import cues, fired
from ..steps import estimated_tokens, mended, redact
from .sets import DataSet, Entry

BATCH = 128  # rows looked at together
FIELDS = ("licence", "license", "consent", "label")  # of a row, shown where it has them
HIDES = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    r"\ud800-\udfff\U000e0000-\U000e007f]"
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows to show; empty = any."""

    reasons: tuple[str, ...] = ()
    abilities: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    kept: bool | None = None

    def takes(self, entry: Entry) -> bool:
        """All but the language, which needs the row's facts."""
        if self.ids and entry.id not in self.ids and own_id(entry) not in self.ids:
            return False
        if self.reasons and not (entry.drop and set(self.reasons) & set(entry.drop.reasons)):
            return False
        return not self.abilities or (entry.row is not None and entry.row.ability in self.abilities)


def own_id(entry: Entry) -> str:
    return str((entry.row.raw or {}).get("id", "")) if entry.row else ""


def show(
    dataset: DataSet, wanted: Wanted, offset: int = 0, limit: int | None = None
) -> Iterator[dict[str, Any]]:
    """Rows of the set, those that stayed first; see `described`."""
    both = []
    if wanted.kept is not False and not wanted.reasons:
        both.append(dataset.kept())
    if wanted.kept is not True:
        both.append(dataset.dropped())
    entries = (entry for entry in chain(*both) if wanted.takes(entry))
    rows = (row for batch in batches(entries) for row in described(batch))
    fits = (row for row in rows if not wanted.languages or row["language"] in wanted.languages)
    return islice(fits, offset, None if limit is None else offset + limit)


def batches(entries: Iterable[Entry], size: int = BATCH) -> Iterator[list[Entry]]:
    rest = iter(entries)
    while batch := list(islice(rest, size)):
        yield batch


def described(entries: list[Entry]) -> list[dict[str, Any]]:
    """{"id", "kept", "part", "reasons", "evidence", "why"?}, and of a row that can be read {"ability",
    "language", "form", "tokens" (estimated), "fires": rules, "mended", "personal": {kind: values},
    "messages" | "text", "rejected"?, "licence"?, "consent"?, "label"?}; its personal data is replaced.
    """
    rows = [entry.row for entry in entries if entry.row is not None]
    facts = facts_of(rows, cues()) if rows else None
    fires: list[list[str]] = [[] for _ in rows]
    for kind, hits, _ in fired(facts) if facts else ():
        for number in hits.nonzero()[0].tolist():
            fires[number].append(kind)
    out, number = [], -1
    for entry in entries:
        body = verdict_of(entry)
        if entry.row is not None and facts is not None:
            number += 1
            plain = bool(facts.form[number] == PROSE)
            body |= {"ability": entry.row.ability, "language": LANGUAGES[facts.language[number]]}
            body |= {"form": FORMS[facts.form[number]], "tokens": estimated_tokens(entry.row)}
            body |= {"fires": fires[number], "mended": mends_of(entry.row, plain)} | texts_of(entry.row)
        out.append(body)
    return out


def verdict_of(entry: Entry) -> dict[str, Any]:
    drop = entry.drop
    body = {
        "id": entry.id, "kept": drop is None, "part": entry.part,
        "reasons": list(drop.reasons) if drop else [], "evidence": dict(drop.evidence) if drop else {},
        "language": "",
    }  # fmt: skip
    return body | ({"why": entry.why} if entry.why else {})


def mends_of(row: Row, plain: bool) -> list[str]:
    """What cleaning would mend in a plain text."""
    return [] if row.messages is not None else list(mended(row.text or "", plain, ())[1])


def texts_of(row: Row) -> dict[str, Any]:
    """The texts of a row with personal data replaced, and how much of it there was."""
    parts, counts = redact(row.parts)
    safe = row.with_parts(parts)
    body: dict[str, Any] = {"personal": {kind: n for kind, n in counts.items() if n}}
    body |= {name: value for name in FIELDS if (value := (row.raw or {}).get(name)) is not None}
    if safe.messages is None:
        return body | {"text": safe.text or ""}
    body["messages"] = list(safe.messages)
    return body | ({"rejected": safe.rejected} if safe.rejected else {})


def plain_text(body: Mapping[str, Any]) -> str:
    """The texts of a described row as one, turns named."""
    if "text" in body:
        return str(body["text"])
    turns = [*body.get("messages", ()), *([body["rejected"]] if "rejected" in body else [])]
    names = [*(m["role"] for m in body.get("messages", ())), "rejected"]
    return "\n".join(f"{name}: {said(turn)}" for name, turn in zip(names, turns, strict=False))


def said(message: Mapping[str, Any]) -> str:
    calls = [f"{c['function']['name']}({c['function']['arguments']})" for c in message.get("tool_calls", ())]
    thought = message.get("reasoning_content")
    return "\n".join([*([f"({thought})"] if thought else []), message["content"], *calls]).strip()


def visible(text: str) -> str:
    """A foreign text as a terminal or a page may show it: signs that hide or move text stand as numbers."""
    return HIDES.sub(lambda m: f"\\u{ord(m[0]):04x}", text) if HIDES.search(text) else text
