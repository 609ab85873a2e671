"""Results on stdout, the rest on stderr; one JSON document where it is asked for. Only this room prints."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from ...errors import Problem
from .messages import hint, say, title
from .options import OPTIONS


def result(document: dict[str, Any], *lines: str) -> None:
    """The verb's result: the document with --json, the lines for people."""
    if OPTIONS.json:
        text = json.dumps(document, ensure_ascii=False, default=str)
        _write(text.encode("utf-8", "backslashreplace").decode())
        return
    for line in lines:
        tell(line)


def tell(line: str = "") -> None:
    """One line of the result."""
    _write(_printable(line, sys.stdout))


def write(text: str) -> None:
    """A piece of a line, at once."""
    _write(_printable(text, sys.stdout), end="")


def _write(text: str, end: str = "\n") -> None:
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:  # the reader has had enough, as in `steelyard logs | head`
        _drop_stdout()
        raise SystemExit(0) from None


def _drop_stdout() -> None:
    """What is still to be flushed at the end has nowhere to go."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def paged(lines: Iterable[str]) -> None:
    """Lines of the result; on a terminal that they overflow, through its pager ($PAGER, else less)."""
    from shutil import get_terminal_size

    rest = iter(lines)
    if not (sys.stdout.isatty() and sys.stdin.isatty()):
        for line in rest:
            tell(line)
        return
    first = list(islice(rest, get_terminal_size().lines - 1))
    more = list(rest) if len(first) == get_terminal_size().lines - 1 else []
    if not more:
        for line in first:
            tell(line)
        return
    import pydoc

    os.environ.setdefault("LESS", "FRX")
    pydoc.pager("\n".join(_printable(line, sys.stdout) for line in [*first, *more]))


def note(line: str) -> None:
    """Something beside the result, on stderr; silent with -q."""
    if not OPTIONS.quiet:
        print(_printable(line, sys.stderr), file=sys.stderr, flush=True)


def columns() -> int:
    """Characters a line may have: $COLUMNS, else the terminal's, else 80."""
    from shutil import get_terminal_size

    return max(40, get_terminal_size((80, 24)).columns)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], indent: int = 2, wrap: int = 0) -> list[str]:
    """Aligned columns; Chinese characters are two wide. Numbers stand right, words left.

    With `wrap` (characters of a line) the last column is broken between words; where it would be narrow it
    goes below its row.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    lines = [list(head), *cells] if any(head) else cells
    widths = [max(_width(line[i]) for line in lines) for i in range(len(head))]
    right = [bool(cells) and all(_is_number(row[i]) for row in cells) for i in range(len(head))]
    if wrap and indent + sum(widths) + 2 * (len(widths) - 1) > wrap:
        return _wrapped(lines, widths, right, indent, wrap)
    return [" " * indent + _line(line, widths, right) for line in lines]


NARROW = 24  # a last column of less is put below its row


def _wrapped(
    lines: Sequence[Sequence[str]], widths: Sequence[int], right: Sequence[bool], indent: int, wrap: int
) -> list[str]:
    """Rows whose last cell is broken between words, beside its column or below the row."""
    at = indent + sum(widths[:-1]) + 2 * (len(widths) - 1)
    below = wrap - at < NARROW
    shown: list[str] = []
    for line in lines:
        row = " " * indent + _line(line[:-1], widths[:-1], right[:-1])
        margin = indent + 5 if below else at
        pieces = broken(line[-1], wrap - margin)
        if pieces and not below:
            row += " " * (at - _width(row)) + pieces.pop(0)
        is_head = line is lines[0] and below and len(lines) > 1
        shown += [row] if is_head else [row, *(" " * margin + piece for piece in pieces)]
    return shown


def broken(text: str, width: int) -> list[str]:
    """A text in lines of at most `width`, broken between words; Chinese may break anywhere."""
    pieces: list[str] = []
    for word in _words(text):
        if pieces and _width(pieces[-1] + word.rstrip()) <= width:
            pieces[-1] += word
        elif word.strip():
            pieces.append(word)
    return [piece.rstrip() for piece in pieces]


def _words(text: str) -> list[str]:
    """Words with the white space behind them; a wide character is a word of its own."""
    import re

    return re.findall(r"[\u2e80-\uffff]\s*|[^\s\u2e80-\uffff]+\s*", text)


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = []
    for cell, width, to_the_right in zip(cells, widths, right, strict=True):
        gap = " " * (width - _width(cell))
        padded.append(gap + cell if to_the_right else cell + gap)
    return "  ".join(padded).rstrip()


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_number(cell: str) -> bool:
    return cell == "-" or cell.lstrip("+-")[:1].isdigit() or cell[:2] in ("$ ", "~ ")


def _width(text: str) -> int:
    from unicodedata import east_asian_width

    return sum(2 if east_asian_width(char) in "WF" else 1 for char in text)


def _printable(line: str, stream: Any) -> str:
    """The line as the stream can write it: a terminal of another encoding must not end the program."""
    encoding = stream.encoding or "utf-8"
    return line.encode(encoding, "backslashreplace").decode(encoding)


def failure(problem: Problem) -> None:
    """An error as a document on stdout with --json, else in three or four lines on stderr.

    Where stdout takes nothing more (a full disk), the lines say it.
    """
    if OPTIONS.json:
        with suppress(OSError):
            _write(json.dumps(problem.as_json(), ensure_ascii=False, default=str))
            return
        _drop_stdout()
    for line in error_lines(problem):
        print(_printable(line, sys.stderr), file=sys.stderr, flush=True)


def error_lines(problem: Problem) -> list[str]:
    """error, at, why, fix: one line each, those left out that have nothing to say.

    In Chinese the first line says it whole, and the English original, which has the details, has a line of
    its own: no line mixes both.
    """
    kind, where = title(problem.code), str(problem.where) if problem.where else ""
    advice = problem.as_json()["error"]["hint"]
    english = kind and not _has_chinese(problem.message)
    lines = [
        f"{_red(say('error:'))} {kind if english else problem.message}   [{problem.code}]",
        f"  {say('original:')} {problem.message}" if english else "",
        f"  {say('at:')} {where}" if where else "",
        f"  {say('why:')} {hint(problem.why)}" if problem.why else "",
        f"  {say('fix:')} {hint(advice)}",
    ]
    return [line for line in lines if line]


def _has_chinese(text: str) -> bool:
    return any("\u4e00" <= char <= "\u9fff" for char in text)


def _red(text: str) -> str:
    plain = "NO_COLOR" in os.environ or not sys.stderr.isatty()
    return text if plain else f"\033[31m{text}\033[0m"
