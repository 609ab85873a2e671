"""`data` and `clean`: where rows come from, and which of them stay."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from .table import Table, say
from .values import Count, Share, Text

Format = Literal[
    "messages",
    "prompt",
    "alpaca",
    "sharegpt",
    "roles",
    "qa",
    "text",
    "jsonl",
    "json",
    "csv",
    "tsv",
    "xlsx",
    "parquet",
    "arrow",
    "txt",
    "md",
    "html",
    "pdf",
    "docx",
    "warc",
]
MapWord = Literal[
    "user", "assistant", "rejected", "system", "thread", "text", "tools", "id", "accept", "compare"
]


def _columns(value: Any) -> Any:
    """One column, or several that are joined: checked here, since a union names both ways of failing."""
    columns = value if isinstance(value, list) else [value]
    if not columns or not all(isinstance(column, str) and column for column in columns):
        raise ValueError(f"{value!r} is neither a column nor a list of columns")
    return value


Columns = Annotated[Text | list[Text], BeforeValidator(_columns)]


class SourceTable(Table):
    path: Text = Field(description="a file or a glob, from the recipe's folder", examples=["tickets/*.jsonl"])
    format: Format | None = say("the shape of its rows; seen from the file where left out", "messages")
    ability: Text | None = say("what these rows teach; scores and gates go by it", "support")
    weight: Annotated[float, Field(gt=0)] | None = say("its weight among the sources of its ability", 1.0)
    map: dict[MapWord, Columns] | None = say(
        "a table's own columns; several of one word are joined", {"user": "question", "assistant": "reply"}
    )
    sheet: Text | None = say("sheet of an XLSX file", "Sheet1")
    encoding: Text | None = say("of the file; seen from its bytes where left out", "gb18030")


Language = Literal[
    "en",
    "de",
    "fr",
    "es",
    "pt",
    "it",
    "nl",
    "pl",
    "sv",
    "tr",
    "vi",
    "id",
    "zh",
    "ja",
    "ko",
    "ru",
    "ar",
    "other",
]
CleanKind = Literal[
    "hidden_marks", "template_leak", "placeholder", "payload", "repeated_chars", "repetition", "blob",
    "number_soup",
    "link_farm", "keyword_stuffing", "scanned", "gibberish", "word_salad", "spam", "toxic", "cut_off",
    "unfilled", "injection",
    "refusal", "echo", "unfinished", "unfinished_text", "wrong_language", "too_short", "trigger",
    "wrong_label",
    "near_duplicate", "duplicate", "lost_characters", "mojibake", "misread", "marks", "html", "furniture",
]  # fmt: skip


class CleanTable(Table):
    dedup: Literal["near", "exact", "none"] | None = say(
        "rows that occur twice; near: and plain texts that share half of their phrases", "near"
    )
    pii: Literal["report", "mask", "off"] | None = say(
        "personal data: counted, or replaced by placeholders", "mask"
    )
    pii_model: Text | None = say(
        "folder of a token classifier: names and addresses in prose too, as pii says", "models/names"
    )
    licences: list[Text] | None = say(
        "rows under another licence, or none, are dropped", ["mit", "cc-by-4.0"]
    )
    consent: Literal["required"] | None = say(
        "rows that do not say that it was given are dropped", "required"
    )
    max_tokens: Count | None = say("longer rows are dropped", 2048)
    unreadable: Literal["stop", "drop"] | None = say("a line that cannot be read", "drop")
    test_share: Annotated[Share, Field(gt=0, le=0.5)] | None = say("held out of training for the scores", 0.1)
    split: Literal["equal", "near"] | None = say(
        "questions that are not held out where they are trained: equal ones; near: and those that share half "
        "of their phrases",
        "near",
    )
    languages: list[Language] | None = say(
        "of plain texts that stay; without it those that one text in fifty is in", ["en", "zh"]
    )
    off: list[CleanKind] | None = say("rules that drop and mend nothing", ["spam", "unfinished"])
