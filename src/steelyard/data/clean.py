"""The step `clean`: sources in, one dataset out.

    train.jsonl, test.jsonl   {"id", "ability", "messages" | "text", "tools"?, "accept"?, "compare"?,
                              "weight"?, "group"?}: equal of training rows that ask nearly the same
    dropped.jsonl             {"id", "reasons", "evidence"?}, no text
    origins.jsonl             {"id", "hash", "own"?, "masked"?} of every row that was read, no text
    account.json              read = kept + dropped; kept = train + held_out;
                              test = held_out + test_from_files

A message is {"role", "content", "tool_calls"?, "tool_call_id"?, "name"?, "reasoning_content"?,
"weight"?: 0 | 1}.
Bytes follow from the data, the rules and the tokenizer alone: no folder, time or machine in them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from ..artefact import Draft, Figures, Inputs, Progress, Settings, Watch
from ..errors import Stopped
from ..trust import disk_problem
from .account import FileAccount
from .cleaning import Cleaning, CleanOrder, as_gate
from .judging import Judged, Others, elsewhere
from .reading.folders import DROPPED
from .reading.sources import Source, files_of
from .row import Row, Unreadable, as_line, text_hash
from .steps import packages_of, suppressed, token_counter


def clean(inputs: Inputs, settings: Settings, out: Draft, watch: Watch) -> Figures:
    """Settings: {"sources": [...], "clean": {...}, "eval": {ability: file or gate}, "root": folder}.

    Tokens are counted by the tokenizer of `inputs.artefacts["base"]` where it is there, else estimated. Rows
    are judged by the processes of `inputs.calls["others"]` where it is there, to the same bytes.
    Raises WrongUse (2) for data that cannot be used, Stopped (6).
    """
    cleaning = Cleaning.of(CleanOrder.of(settings, token_counter(inputs)))
    others: Others | None = inputs.calls.get("others")
    try:
        with others(watch) if others else nullcontext() as map_pieces:
            if map_pieces is not None:
                cleaning.judged_pieces = elsewhere(map_pieces)
            account = write_dataset(cleaning, out.folder, watch)
    except OSError as e:
        raise disk_problem(e, Path(e.filename or out.folder / "train.jsonl")) from e
    say_aloud(account, watch)
    return {
        "rows_in": float(account["read"]),
        "kept": float(account["kept"]),
        "dropped": float(account["dropped"]),
        "bytes_in": float(account["bytes_in"]),
        "redacted": float(sum(account["masked"].values())),
        "train_rows": float(account["train"]),
        "test_rows": float(account["test"]),
    }


def say_aloud(account: Mapping[str, Any], watch: Watch) -> None:
    """What a user should know before these rows are taught."""
    watch.log("clean.done", read=account["read"], kept=account["kept"], dropped=account["dropped"])
    if account["placeholder_answers"]:
        watch.log("clean.placeholders", rows=account["placeholder_answers"], of=account["train"])
    stay = sum(account["personal"].values()) if not account["masked"] else 0
    if stay:
        watch.log("clean.personal", values=stay, rows=account["personal_rows"])


ORIGINS = "origins.jsonl"


@dataclass(frozen=True, slots=True)
class KeptNote:
    """What the division into train and test must know of a kept row, besides its line."""

    file: FileAccount
    ability: str
    prompt: bytes
    masked: tuple[tuple[str, int], ...]
    placeholder: bool
    made: bool


def write_dataset(cleaning: Cleaning, folder: Path, watch: Watch) -> dict[str, Any]:
    """Write the payload into `folder`; returns the account."""
    kept_file, original_file = folder / ".kept.jsonl", folder / ".original.jsonl"
    origins_file = folder / ORIGINS
    with (
        watch.progress("clean", total=None, unit="rows") as bar,
        open(folder / DROPPED, "wb") as d,
        open(origins_file, "wb") as origins,
    ):
        cleaning.on_judged = lambda item, judged: write_line(origins, origin_line(item, judged.masked))
        cleaning.sieve.on_drop = lambda id, reasons, evidence: write_line(d, drop_line(id, reasons, evidence))
        cleaning.sieve.folder = folder
        cleaning.on_rows = lambda count: go_on(watch, bar, count)
        with open(kept_file, "wb") as kept, open(original_file, "wb") as original:
            notes = [note(kept, original, judged, file) for judged, file in cleaning.run()]
        for row in cleaning.test:
            write_line(origins, origin_line(row))
        counts = divide(kept_file, original_file, notes, cleaning, folder)
    kept_file.unlink()
    original_file.unlink()
    account = cleaning.account.as_json() | counts
    assert account["test"] == account["held_out"] + account["test_from_files"]
    (folder / "account.json").write_bytes(orjson.dumps(account, option=orjson.OPT_INDENT_2))
    return account


def drop_line(id: str, reasons: Sequence[str], evidence: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": id, "reasons": list(reasons)} | ({"evidence": dict(evidence)} if evidence else {})


def origin_line(item: Row | Unreadable, masked: bool = False) -> dict[str, Any]:
    """What names a row in all that is made of it: its place, the hash of its text as read, its own id."""
    if isinstance(item, Unreadable):
        return {"id": item.id}
    own = (item.raw or {}).get("id")
    brought = {"own": own} if isinstance(own, str | int) and own != "" else {}
    return {"id": item.id, "hash": text_hash(item)} | brought | ({"masked": True} if masked else {})


def go_on(watch: Watch, bar: Progress, count: int) -> None:
    if watch.stop:
        raise Stopped("run.stopped", "cleaning was stopped", hint="run the same command again")
    bar.advance(count)


def note(kept: BinaryIO, original: BinaryIO, judged: Judged, file: FileAccount) -> KeptNote:
    """Write the row down, and as it was where it was masked: a held-out row stays as it was."""
    assert judged.row and judged.original
    write_line(kept, judged.row.as_json())
    if judged.masked:
        write_line(original, judged.original.as_json())
    masked = judged.personal if judged.masked else ()
    return KeptNote(file, judged.row.ability, judged.prompt, masked, judged.placeholder, judged.made)


def write_line(file: BinaryIO, body: Mapping[str, Any]) -> None:
    file.write(as_line(body))


def divide(
    kept_file: Path, original_file: Path, notes: list[KeptNote], cleaning: Cleaning, folder: Path
) -> dict[str, Any]:
    """Write train.jsonl and test.jsonl; how many rows each ability has in them."""
    order = cleaning.order
    chosen = cleaning.divided([(n.ability, n.prompt, n.made) for n in notes])
    settled = cleaning.settled
    staying = [one for number, one in enumerate(notes) if number not in settled]
    weights = draw_weights([n for n in staying if n.prompt not in chosen])
    groups = groups_in([n.prompt for n in staying if n.prompt not in chosen], cleaning)
    train: Counter[str] = Counter()
    test: Counter[str] = Counter(row.ability for row in cleaning.test)
    with open(folder / "train.jsonl", "wb") as to_train, open(folder / "test.jsonl", "wb") as to_test:
        for row in cleaning.test:
            write_line(to_test, row.as_json())
        with open(kept_file, "rb") as lines, open(original_file, "rb") as originals:
            for number, (line, one) in enumerate(zip(lines, notes, strict=True)):
                original = originals.readline() if one.masked else line
                if number in settled:
                    continue
                if one.prompt in chosen:
                    to_test.write(original)
                    test[one.ability] += 1
                    one.file.held_out += 1
                else:
                    more = {"weight": weights.get(one.file.source), "group": groups.get(one.prompt)}
                    to_train.write(with_more(line, more))
                    train[one.ability] += 1
                    cleaning.account.teach(one.masked, one.placeholder)
    return {
        "test": test.total(),
        "test_from_files": len(cleaning.test),
        "test_unreadable": cleaning.test_unreadable,
        "abilities": {
            a: {"train": train[a], "test": test[a], "own_eval": a in order.evals}
            for a in sorted({*train, *test})
        },
    }


def draw_weights(train: Sequence[KeptNote]) -> dict[int, float]:
    """Source -> how often one of its rows is drawn among those of its ability; 1 = as often as any.

    `weight` in a recipe sets the shares of an ability's sources, whatever their rows; one that names none
    counts 1. Without any weight in an ability, all its rows are alike, and so is a lone source. Abilities
    are left as they stand to each other: the mean over the rows of each is 1.
    """
    rows: Counter[tuple[str, int]] = Counter((one.ability, one.file.source) for one in train)
    given = {one.file.source: one.file.weight for one in train}
    weights_of_rows: dict[int, float] = {}
    for ability in {ability for ability, _ in rows}:
        sources = [source for a, source in rows if a == ability]
        if len(sources) > 1 and any(given[source] is not None for source in sources):
            weights = {s: 1.0 if (w := given[s]) is None else w for s in sources}
            mean = sum(rows[ability, s] for s in sources) / sum(weights.values())
            weights_of_rows |= {s: weights[s] * mean / rows[ability, s] for s in sources}
    return weights_of_rows


def groups_in(prompts: Sequence[bytes], cleaning: Cleaning) -> dict[bytes, str]:
    """With `split: near`: prompt -> a name of those that it hangs together with; none of a row alone."""
    alike = cleaning.questions_alike
    if alike is None:
        return {}
    rows = Counter(alike.group(prompt) for prompt in prompts)
    return {p: alike.group(p).hex()[:16] for p in set(prompts) if rows[alike.group(p)] > 1}


def with_more(line: bytes, more: Mapping[str, Any]) -> bytes:
    """The line with those fields that have a value."""
    given = {n: round(v, 6) if isinstance(v, float) else v for n, v in more.items() if v is not None}
    return as_line({**orjson.loads(line), **given}) if given else line


# ------------------------------------------------------------------ what makes two orders equal


def fingerprint(settings: Settings) -> list[dict[str, Any]]:
    """Name, bytes and SHA-256 of every file that `clean` would read, for the key of its artefact.

    Raises WrongUse where one is missing.
    """
    gates = (settings.get("eval") or settings.get("abilities") or {}).items()
    evals = [Source(path=g["eval"]) for g in (as_gate(gate) for _, gate in sorted(gates)) if g["eval"]]
    sources = [Source.of(s) for s in settings["sources"]]
    model = (settings.get("clean") or {}).get("pii_model")
    root = Path(settings["root"])
    files = [*hashed([*sources, *evals], root), *(model_files(root / model) if model else ())]
    erased = suppressed()
    if erased.digest:
        files.append({"name": "erased rows", "bytes": len(erased.rows), "sha256": erased.digest})
    return files


def model_files(folder: Path) -> Iterator[dict[str, Any]]:
    """Of the token classifier: another one finds other names."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        name = f"pii_model/{path.relative_to(folder).as_posix()}"
        yield {"name": name, "bytes": path.stat().st_size, "sha256": sha256}
    versions = orjson.dumps(packages_of(folder), option=orjson.OPT_SORT_KEYS)
    yield {"name": "pii_model packages", "bytes": 0, "sha256": hashlib.sha256(versions).hexdigest()}


def hashed(sources: list[Source], root: Path) -> Iterator[dict[str, Any]]:
    for _, account in files_of(sources, root):
        with open(account.path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        yield {"name": account.name, "bytes": account.path.stat().st_size, "sha256": sha256}
