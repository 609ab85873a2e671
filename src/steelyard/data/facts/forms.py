"""The form of a row, before any rule: prose, code, a table, a chat, a labelled text.

What is wrong with prose is right in code or a table: every rule names the forms that it is for.
"""

from __future__ import annotations

import re

import numpy as np

from ..row import Row
from .kinds import Kind

PROSE, CODE, TABLE, CHAT, LABEL = range(5)
FORMS = ("prose", "code", "table", "chat", "label")

# A line that people write in programs and nowhere else.
CODE_LINE = re.compile(
    r"^\s*(?:"
    r"(?:async\s+)?def \w+\s*\(|class \w+\s*[:({]|(?:import|package|using|use) [\w.:*{]+[^.!?]*$|"
    r"from [\w.]+ import |"
    r"@\w+|#(?:include|define|if|ifdef|ifndef|elif|else|endif|undef|pragma|region|error)\b|#!|<\?php|"
    r"(?:export |public |private |protected |static |final |async |pub )+\w|"
    r"(?:const|let|var|val|auto|int|float|double|char|bool|string|void|long|unsigned|func|fn|"
    r"function|fun|struct|"
    r"enum|interface|impl|type|namespace|module|trait)\b[^.!?]*[({=;:]|"
    r"(?:if|elif|else|for|while|switch|try|except|catch|finally|with|match|do|return|raise|throw|"
    r"yield|await|case|"
    r"break|continue|pass|end|fi|done|esac|echo|print|assert|del|global|then)\b[^.!?]*(?:[:({;)]|$)|"
    r"(?:SELECT|INSERT INTO|UPDATE|DELETE FROM|CREATE|ALTER|DROP|FROM|WHERE|GROUP BY|ORDER BY|"
    r"HAVING|VALUES|JOIN|"
    r"LEFT JOIN|INNER JOIN|LIMIT|WITH|UNION)\b|"
    r"(?:--|//|/\*|\*/|\* )|[\w.\[\]'\"*&>-]+\s*(?:[-+*/|&^%]|<<|>>)?=\s*\S|[\w.\]>-]+\(.*\)\s*[;:{]?$|"
    r"[})\]]+[;,)]*$|[{(\[]$|</?\w[^>]*>\s*$|\"[\w$-]+\"\s*:\s*\S|[\w.-]+:\s*(?:\S+)?$|"
    r"\.[\w-]+\s*\{|\w+\s*\{$|\$ \w"
    r")"
)
CODE_END = re.compile(r"(?:[;{}(\[,\\]|\)\s*:|=>|->)\s*$")
CODE_SHARE = 0.5  # of the lines
SYMBOL_SHARE = 0.01  # of the characters; with fewer symbols no line is looked at
CODE_LINE_CHARS = 80
SEPARATORS = ("|", "\t", ",", ";", "，")
TABLE_LINES = 3
CELL_CHARS = 40  # in the mean
TABLE_SHARE = 0.5  # of the lines have the most common number of separators, at least two


def forms_of(rows: list[Row], texts: list[str], counts: np.ndarray) -> np.ndarray:
    """uint8, the form of each row; `texts` and `counts` (by kind) are of its first text."""
    forms = np.zeros(len(rows), dtype=np.uint8)
    size = np.maximum(counts.sum(axis=1), 1)
    lines = counts[:, Kind.NEWLINE]
    short_lines = (lines >= TABLE_LINES) & (size <= CODE_LINE_CHARS * (lines + 1))
    ended = short_lines & (
        np.abs(counts[:, Kind.COMMA] - lines) <= 0.5 * lines
    )  # "import a.b.C;": hardly a symbol in it
    may_be_code = ((counts[:, Kind.SYMBOL] >= SYMBOL_SHARE * size) | ended) & (size < 1_000_000)
    may_be_table = (lines >= TABLE_LINES - 1) & (counts[:, Kind.COMMA] + counts[:, Kind.SYMBOL] >= 6)
    for number, row in enumerate(rows):
        if row.messages is not None:
            forms[number] = CHAT
        elif is_labelled(row):
            forms[number] = LABEL
        elif may_be_code[number] and is_code(texts[number]):
            forms[number] = CODE
        elif may_be_table[number] and is_table(texts[number]):
            forms[number] = TABLE
    return forms


def is_labelled(row: Row) -> bool:
    label = (row.raw or {}).get("label")
    return isinstance(label, str | int) and not isinstance(label, bool) and label != ""


def is_code(text: str) -> bool:
    """At least half of the lines look like code; a text of one line has to be code to its end."""
    lines = [line for line in text.split("\n") if line.strip()]
    hits = sum(bool(CODE_LINE.match(line) or CODE_END.search(line)) for line in lines)
    if len(lines) < 3:
        return bool(lines) and hits == len(lines) and len(text) < 2_000 and bool(CODE_LINE.match(lines[0]))
    return hits >= CODE_SHARE * len(lines) or (hits >= 4 and indented(lines) >= CODE_SHARE * len(lines))


def indented(lines: list[str]) -> int:
    return sum(line[:1] in " \t" for line in lines) + 1


def is_table(text: str) -> bool:
    """Lines in a row with the same number of separators and short cells that are no sentences."""
    lines = [line for line in text.split("\n") if line.strip()]
    for separator in SEPARATORS:
        if len(text) > CELL_CHARS * (text.count(separator) + len(lines)):
            continue
        counts = [line.count(separator) for line in lines]
        width = max((n for n in set(counts) if n >= 2), key=counts.count, default=0)
        alike = [line for line, count in zip(lines, counts, strict=True) if width and count == width]
        enough = len(alike) >= max(TABLE_LINES, TABLE_SHARE * len(lines))
        if enough and has_cells(alike, width):
            return True
    return False


def has_cells(lines: list[str], width: int) -> bool:
    sentences = sum(line.rstrip()[-1:] in ".!?。！？" for line in lines)
    return sum(map(len, lines)) <= CELL_CHARS * (width + 1) * len(lines) and sentences <= 0.3 * len(lines)
