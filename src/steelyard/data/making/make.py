"""`steelyard data make`: documents in, rows out.

    OUT.jsonl            {"id", "text", "source", "heading", "page"?, "url"?}: passages, for `stage: pt`
    OUT.made.jsonl       {"id", "messages", "made": true, "passage", "quote", ...}: what a model made of them
    OUT.refused.jsonl    {"passage", "question", "answer", "quote", "reasons"}: made, but not borne out
    OUT.account.json     documents, passages; made = rows + refused; what could not be read
    OUT.asked.jsonl      the model's answers as they came, so that none is asked for twice

Without an endpoint nothing is asked and nothing leaves the machine. The same documents and answers give the
same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from ...artefact import Watch
from ...errors import Lacking, Where, WrongUse
from ...trust import atomic
from ..account import FileAccount
from ..reading.documents import PASSAGE_CHARS
from ..reading.documents.blocks import Block
from ..reading.documents.passages import passages
from ..reading.files import ROWS
from ..reading.folders import every_file
from ..reading.sources import Source, is_data, name_of, paths_of, rows, suffix_of, unique
from ..row import Row, Unreadable
from .asking import Asking
from .endpoint import Endpoint
from .journal import Journal, key_of
from .prompt import rows_of
from .proof import Made, faults_of, plain


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeOrder:
    """What is to be made of which documents; `ask` None: passages alone."""

    documents: tuple[Path, ...]
    out: Path
    ask: str | None = None  # the URL of a server of the OpenAI API
    model: str | None = None  # the server's first
    key: str | None = field(default=None, repr=False)
    questions: int = 3  # a passage, at most
    chars: int = PASSAGE_CHARS
    at_once: int = 4
    ability: str | None = None
    map: Mapping[str, Any] = field(default_factory=dict)  # of tables: {"text": columns}

    def beside(self, word: str) -> Path:
        """`rows.jsonl` has `rows.made.jsonl` beside it."""
        return self.out.with_name(f"{self.out.name.removesuffix('.jsonl')}.{word}")


def make_rows(order: MakeOrder, watch: Watch | None = None) -> dict[str, Any]:
    """Returns the account, see above. Raises WrongUse, Lacking, Stopped; the same call goes on."""
    watch = watch or Watch()
    check(order)
    order.out.parent.mkdir(parents=True, exist_ok=True)
    reading = Reading(order)
    cut = list(reading.passages())
    if not cut:
        raise nothing_read(order, reading)
    account = reading.account(cut)
    write_account(order, account)  # first: it says that what lies beside it is ours
    write_lines(order.out, cut)
    if order.ask:
        account["made"] = ask_all(order, cut, watch)
        write_account(order, account)
    return account


def write_account(order: MakeOrder, account: Mapping[str, Any]) -> None:
    with atomic(order.beside("account.json"), 0o644) as file:
        file.write(orjson.dumps(account, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def check(order: MakeOrder) -> None:
    """Nothing is written over that this did not make."""
    if order.out.exists() and not order.beside("account.json").exists() and order.out.stat().st_size:
        raise WrongUse(
            "data.out_exists", f"{order.out} is there already", where=Where(str(order.out), field="--out"),
            hint="name a file that is not there yet",
        )  # fmt: skip


def nothing_read(order: MakeOrder, reading: Reading) -> WrongUse:
    fault = next((file.fault for file in reading.files if file.fault), None)
    if fault is not None and len(reading.files) == 1:
        raise fault
    names = ", ".join(map(str, order.documents))
    return WrongUse(
        "data.no_passages", f"there is no text in {names}", where=Where(field="DOCS"),
        why="; ".join(f"{one['file']}: {one['why']}" for one in reading.unreadable[:3]) or None,
        hint="name documents: .md, .html, .pdf, .docx, .txt, .warc, or rows of text",
    )  # fmt: skip


def write_lines(path: Path, bodies: Sequence[Mapping[str, Any]]) -> None:
    with atomic(path, 0o644) as file:
        for body in bodies:
            file.write(orjson.dumps(body, option=orjson.OPT_APPEND_NEWLINE))


# ------------------------------------------------------------------ passages


class Reading:
    """Passages of all documents, and what could not be read on the way."""

    def __init__(self, order: MakeOrder) -> None:
        self.order = order
        self.files: list[FileAccount] = []
        self.unreadable: list[dict[str, Any]] = []
        self.chats = 0

    def passages(self) -> Iterator[dict[str, Any]]:
        taken: set[str] = set()
        for path, root in each_document(self.order.documents):
            file = FileAccount(unique(name_of(path, root), taken), "main", path)
            self.files.append(file)
            source = Source(path=str(path), chars=self.order.chars, map=mapped(path, self.order.map))
            for item in rows(source, root, file, lenient=True):
                yield from self.of(item, file)

    def of(self, item: Row | Unreadable, file: FileAccount) -> Iterator[dict[str, Any]]:
        if isinstance(item, Unreadable):
            self.unreadable.append({"file": file.name, "at": item.line, "why": item.why})
        elif item.text is None:
            self.chats += 1
        else:
            raw = item.raw or {}
            place = {name: raw[name] for name in ("heading", "page", "url") if name in raw}
            ability = {"ability": self.order.ability} if self.order.ability else {}
            for number, text in enumerate(self.bounded(item.text, bool(raw.get("heading")))):
                id = f"{item.id}.{number}" if number else item.id
                yield {"id": id, "text": text, "source": file.name} | place | ability

    def bounded(self, text: str, cut: bool) -> list[str]:
        """Rows of text may be of any length; those of a document are cut already."""
        if cut or len(text) <= self.order.chars:
            return [text]
        return [p["text"] for p in passages([Block(part) for part in text.split("\n\n")], self.order.chars)]

    def account(self, cut: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {
            "schema": "steelyard.make/1",
            "documents": len(self.files),
            "passages": len(cut),
            "chars": sum(len(row["text"]) for row in cut),
            "chats_left_out": self.chats,
            "unreadable": self.unreadable,
            "files": {str(f.name): sum(row["source"] == f.name for row in cut) for f in self.files},
        }


def mapped(path: Path, map: Mapping[str, Any]) -> Mapping[str, Any]:
    """Columns are of tables and rows; a document has none."""
    return map if suffix_of(path) in ROWS else {}


def each_document(paths: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """(file, the folder that its name leaves out); folders with all that lies below. Raises WrongUse."""
    for path in paths:
        if path.is_dir():
            yield from ((one, path) for one in every_file(path, []) if is_data(one))
        else:
            found = paths_of(Source(path=str(path.absolute())), Path("/"))
            yield from ((one, one.parent) for one in found)


# ------------------------------------------------------------------ questions and answers


def ask_all(order: MakeOrder, cut: Sequence[Mapping[str, Any]], watch: Watch) -> dict[str, Any]:
    """Every passage asked once; writes what was made and what was refused. Returns their account."""
    assert order.ask
    with closing(Journal(order.beside("asked.jsonl"))) as journal:
        with closing(Endpoint(order.ask, order.model, order.key)) as endpoint:
            model = endpoint.model or "default"
            keys = [key_of(row, model, order.questions) for row in cut]
            waiting = {k: row for k, row in zip(keys, cut, strict=True) if k not in journal.answers}
            asking = Asking(endpoint, journal, order.questions, order.at_once)
            asking.ask(waiting, watch)
        answers = [journal.answers.get(key) for key in keys]
    if not any(answers):
        raise none_answered(order, asking.refused)
    return sorted_out(order, model, list(zip(cut, answers, strict=True)))


def none_answered(order: MakeOrder, refused: Mapping[str, str]) -> Lacking:
    return Lacking(
        "data.ask_failed", f"{order.ask} answered none of {len(refused)} passages",
        where=Where(field="--ask"), why=next(iter(refused.values()), None),
        hint="mend what the server says, then run the same command again",
    )  # fmt: skip


def sorted_out(
    order: MakeOrder, model: str, answered: Sequence[tuple[Mapping[str, Any], Mapping[str, Any] | None]]
) -> dict[str, Any]:
    """Write the rows that stand in their passage, and apart from them those that do not."""
    good: list[dict[str, Any]] = []
    bad: list[dict[str, Any]] = []
    asked_before: set[str] = set()
    for row, answer in answered:
        for number, (made, reasons) in enumerate(judged(row, answer, order.questions, asked_before), 1):
            if reasons:
                bad.append(refused_row(row, made, reasons))
            else:
                good.append(made_row(row, made, number, model, order.ability))
    write_lines(order.beside("made.jsonl"), good)
    write_lines(order.beside("refused.jsonl"), bad)
    replies = [answer for _, answer in answered if answer]
    return {
        "model": model,
        "passages_answered": len(replies),
        "passages_unanswered": len(answered) - len(replies),
        "made": len(good) + len(bad),
        "rows": len(good),
        "refused": len(bad),
        "by_reason": dict(sorted(Counter(one["reasons"][0] for one in bad).items())),
        "prompt_tokens": sum(reply["prompt_tokens"] for reply in replies),
        "completion_tokens": sum(reply["completion_tokens"] for reply in replies),
    }


def judged(
    row: Mapping[str, Any], answer: Mapping[str, Any] | None, questions: int, asked_before: set[str]
) -> Iterator[tuple[Made, list[str]]]:
    """Each made row with why it may not stay."""
    if answer is None:
        return
    made_rows = rows_of(answer["text"], questions)
    if made_rows is None:
        yield Made("", answer["text"][:2000], ""), ["not_json"]
        return
    for made in made_rows:
        reasons = faults_of(made, row["text"], "\n".join(row.get("heading", ())))
        question = plain(made.question).casefold()
        if not reasons and question in asked_before:
            reasons = ["asked_twice"]
        if not reasons:
            asked_before.add(question)
        yield made, reasons


def made_row(
    row: Mapping[str, Any], made: Made, number: int, model: str, ability: str | None
) -> dict[str, Any]:
    messages = [{"role": "user", "content": made.question}, {"role": "assistant", "content": made.answer}]
    place = {name: row[name] for name in ("source", "heading", "page", "url", "ability") if name in row}
    about = {"made": True, "passage": row["id"], "quote": made.quote, "model": model}
    return {"id": f"{row['id']}#{number}", "messages": messages} | about | place


def refused_row(row: Mapping[str, Any], made: Made, reasons: Sequence[str]) -> dict[str, Any]:
    said = {"question": made.question, "answer": made.answer, "quote": made.quote}
    return {"passage": row["id"], "reasons": list(reasons)} | said
