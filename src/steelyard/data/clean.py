"""The step `clean`: sources in, one dataset out.

    train.jsonl, test.jsonl   {"id", "ability", "messages" | "text", "accept"?, "compare"?, "weight"?}
    dropped.jsonl             {"id", "reasons"}, no text
    account.json              in = kept + dropped; kept = train + test rows taken from the sources

Bytes follow from the data, the rules and the tokenizer alone: no folder, time or machine in them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from ..artefact import Draft, Figures, Inputs, Settings, Watch
from ..errors import Stopped
from ..trust import disk_problem
from .row import Row
from .sources import Source, files_of
from .walk import Kept, Order, Walk, as_gate, held_out


def clean(inputs: Inputs, settings: Settings, out: Draft, watch: Watch) -> Figures:
    """Settings: {"sources": [...], "clean": {...}, "eval": {ability: file or gate}, "root": folder}.

    Tokens are counted by the tokenizer of `inputs.artefacts["base"]` where it is there, else estimated.
    Raises WrongUse (2) for data that cannot be used, Stopped (6).
    """
    walk = Walk(Order.of(settings, token_counter(inputs)))
    try:
        account = walked(walk, out.folder, watch)
    except OSError as e:
        raise disk_problem(e, Path(e.filename or out.folder / "train.jsonl")) from e
    watch.log("clean.done", rows_in=account["in"], kept=account["kept"], dropped=account["dropped"])
    return {
        "rows_in": float(account["in"]),
        "kept": float(account["kept"]),
        "dropped": float(account["dropped"]),
        "bytes_in": float(account["bytes_in"]),
        "redacted": float(sum(account["masked"].values())),
        "train_rows": float(account["train"]),
        "test_rows": float(account["test"]),
    }


def walked(walk: Walk, folder: Path, watch: Watch) -> dict[str, Any]:
    """Write the payload into `folder`; returns the account."""
    kept_file = folder / ".kept.jsonl"
    with watch.progress("clean", total=None, unit="rows") as bar, open(folder / "dropped.jsonl", "wb") as d:
        walk.on_drop = lambda id, reasons: write_line(d, {"id": id, "reasons": list(reasons)})
        walk.on_rows = lambda count: go_on(watch, bar, count)
        with open(kept_file, "wb") as file:
            keys = [note(file, kept) for kept in walk.run()]
    counts = divide(kept_file, keys, walk, folder)
    kept_file.unlink()
    account = walk.account.as_json() | counts
    (folder / "account.json").write_bytes(orjson.dumps(account, option=orjson.OPT_INDENT_2))
    return account


def go_on(watch: Watch, bar: Any, count: int) -> None:
    if watch.stop:
        raise Stopped("run.stopped", "cleaning was stopped", hint="run the same command again")
    bar.advance(count)


def note(file: BinaryIO, kept: Kept) -> tuple[str, bytes]:
    write_line(file, kept.row.as_json())
    return kept.row.ability, kept.prompt


def write_line(file: BinaryIO, body: Mapping[str, Any]) -> None:
    file.write(dumps(body))


def dumps(body: Mapping[str, Any]) -> bytes:
    """One line of JSON; a lone surrogate, which UTF-8 cannot hold, becomes U+FFFD."""
    try:
        return orjson.dumps(body, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        import json

        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode() + b"\n"


def divide(kept_file: Path, keys: list[tuple[str, bytes]], walk: Walk, folder: Path) -> dict[str, Any]:
    """Write train.jsonl and test.jsonl; how many rows each ability has in them."""
    chosen = held_out(keys, walk.order)
    train: Counter[str] = Counter()
    test: Counter[str] = Counter(row.ability for row in walk.test)
    with open(folder / "train.jsonl", "wb") as to_train, open(folder / "test.jsonl", "wb") as to_test:
        for row in walk.test:
            write_line(to_test, row.as_json())
        with open(kept_file, "rb") as lines:
            for line, (ability, prompt) in zip(lines, keys, strict=True):
                held = prompt in chosen
                (to_test if held else to_train).write(line)
                (test if held else train)[ability] += 1
    abilities = sorted({*train, *test})
    return {
        "train": train.total(),
        "test": test.total(),
        "test_from_files": len(walk.test),
        "test_unreadable": walk.test_unreadable,
        "abilities": {
            a: {"train": train[a], "test": test[a], "own_eval": a in walk.order.evals} for a in abilities
        },
    }


# ------------------------------------------------------------------ tokens


def token_counter(inputs: Inputs) -> Callable[[Row], int] | None:
    """How long a row is for the base model, if the base is among the inputs."""
    base = inputs.artefacts.get("base")
    if base is None:
        return inputs.calls.get("tokens_of")

    @cache
    def loaded() -> Callable[[Row], int]:
        from ..model import Tokenizer

        return counter(Tokenizer(base.path()))

    return lambda row: loaded()(row)  # most data has no row long enough to need it


def counter(tokenizer: Any) -> Callable[[Row], int]:
    """Tokens of a row, special tokens included."""

    def count(row: Row) -> int:
        if row.messages is None:
            return len(tokenizer.encode(row.text or ""))
        return len(tokenizer.chat_ids(list(row.messages), False))

    return count


# ------------------------------------------------------------------ what makes two orders equal


def fingerprint(settings: Settings) -> list[dict[str, Any]]:
    """Name, bytes and SHA-256 of every file that `clean` would read, for the key of its artefact.

    Raises WrongUse where one is missing.
    """
    gates = (settings.get("eval") or settings.get("abilities") or {}).items()
    evals = [Source(path=g["eval"]) for g in (as_gate(told) for _, told in sorted(gates)) if g["eval"]]
    sources = [Source.of(s) for s in settings["sources"]]
    return list(hashed([*sources, *evals], Path(settings["root"])))


def hashed(sources: list[Source], root: Path) -> Iterator[dict[str, Any]]:
    for _, told in files_of(sources, root):
        with open(told.path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        yield {"name": told.name, "bytes": told.path.stat().st_size, "sha256": sha256}
