"""data trace, data erase: where a row is, and how it goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ....errors import Where, WrongUse
from ....units import show_bytes
from ...telling.acts import written
from ...telling.messages import say
from ...telling.output import paged, result, table
from ..recipes import no_settings

Work = Annotated[
    Path | None, typer.Option("--work", metavar="DIR", help=say("This work folder alone; else all known."))
]


def trace(
    words: Annotated[list[str], typer.Argument(metavar="ID|TEXT")],
    work: Work = None,
    text: Annotated[
        bool | None,
        typer.Option("--text/--id", help=say("Take the words as texts, or as ids; else as they fit.")),
    ] = None,
) -> None:
    no_settings("data trace")
    from ....run import trace as traced

    told = traced(words, work, text).as_json()
    from ...telling.options import OPTIONS

    if OPTIONS.json:
        return result({"schema": "steelyard.data_trace/1"} | told)
    paged(trace_lines(told))


def trace_lines(told: dict[str, Any]) -> Iterator[str]:
    from ....data import visible

    if not told["rows"] and not told["holders"]:
        yield say("nothing holds it")
    if told["rows"]:
        rows = [(visible(r["id"]), r["hash"][:12], said(r), r["work"]) for r in told["rows"]]
        yield from table((say("row"), say("hash"), say("became"), say("folder")), rows)
        yield ""
    if told["holders"]:
        holders = [(say(h["kind"]), h["path"], said_how(h)) for h in told["holders"]]
        yield from table((say("kind"), say("holds it"), say("how")), holders)
    for one in told["unread"]:
        yield say("not looked through: {what}", what=one)


def said(row: dict[str, Any]) -> str:
    """What became of a row: where it stands, or why it was dropped, and whether it was asked for."""
    parts = [", ".join(row["reasons"]) if row.get("reasons") else row["where"]]
    parts += [f"→ {row['of']}"] if row.get("of") else []
    parts += [say("masked")] if row["masked"] else []
    parts += [say("stands with it")] if row["why"] == "merged" else []
    return ", ".join(parts)


def erase(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help=say("Ids or hashes of rows."), show_default=False)
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="IDS", help=say("More of them, one a line."))
    ] = None,
    work: Work = None,
    exact: Annotated[
        bool, typer.Option("--exact", help=say("Leave rows that are nearly the same as one of them."))
    ] = False,
    remake: Annotated[
        bool, typer.Option("--remake", help=say("Train, judge and serve again first, without the rows."))
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help=say("Do it; else the plan alone is shown."))] = False,
    proof: Annotated[
        Path | None, typer.Option("--proof", metavar="FILE", help=say("A copy of the proof, JSON."))
    ] = None,
) -> None:
    no_settings("data erase")
    from ....run import begun_orders, order_of

    words = [*(ids or []), *(lines_of(file) if file else [])]
    begun = begun_orders()
    if not words and not (yes and begun):
        raise WrongUse(
            "cli.usage", say("erase takes ids of rows, or --file"), where=Where(field="ID"),
            hint="steelyard data erase rows.jsonl:7",
        )  # fmt: skip
    if yes:
        return carried_out(words, work, exact, remake, proof)
    order, _ = order_of(words, work, exact, remake)
    document = {"schema": "steelyard.erase_plan/1", "done": False, "unfinished": [one.id for one in begun]}
    result(document | order.as_json(), *order_lines(order.as_json()))


def lines_of(path: Path) -> list[str]:
    """Raises WrongUse."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as e:
        text = say("cannot read {path}", path=path)
        hint = say("a text file with one id a line")
        raise WrongUse("data.ids_file", text, where=Where(str(path), field="--file"), hint=hint) from e


def carried_out(words: list[str], work: Path | None, exact: bool, remake: bool, copy: Path | None) -> None:
    import hashlib
    import json

    from ....artefact import write_durably
    from ....run import erase as erased
    from ...telling.terminal import Terminal

    with Terminal() as watch:
        proofs = erased(words, work, exact, remake, watch)
    for one in proofs:
        proven = hashlib.sha256(Path(one["file"]).read_bytes()).hexdigest()
        written("rows.erased", artefact=proven, rows=len(one["rows"]), removed=len(one["removed"]))
    document = {"schema": "steelyard.erase/1", "done": True, "proofs": proofs}
    if copy is not None:
        write_durably(copy, json.dumps(proofs, indent=1, ensure_ascii=False).encode() + b"\n")
    result(document, *(line for proof in proofs for line in proof_lines(proof)))


def order_lines(order: dict[str, Any]) -> list[str]:
    """The rows, what goes, what must be made again, what stays with the user."""
    from ....data import visible

    why = {"asked": say("asked for"), "merged": say("stands with it")}
    rows = [(visible(r["id"]), r["hash"][:12], why[r["why"]]) for r in order["rows"]]
    lines = [*table((say("row"), say("hash"), say("why")), rows), ""]
    goes = [
        (say(a["kind"]), show_bytes(a["bytes"]), a["path"]) for w in order["works"] for a in w["artefacts"]
    ]
    goes += [(say("cache"), "", path) for path in order["copies"]]
    goes += [(say(s["kind"]), "", f"{s['service']}: {s['id']}") for s in order["stored"]]
    lines += [*table((say("goes"), say("size"), say("where")), goes), ""] if goes else []
    for one in order["works"]:
        steps = ", ".join(say(step) for step in one["steps"])
        lines.append(say("to be made again: {name}: {steps}", name=one["name"], steps=steps))
        if one["serves"] and not order["remake"]:
            lines.append(say("its service would be stopped; --remake keeps it until the new one stands"))
    for one in order["left"]:
        at = f"{one['path']}:{one['line']}" if "line" in one else one["path"]
        lines.append(say("yours to change: {path} ({why})", path=at, why=say(one["why"])))
    return [*lines, "", say("nothing was done; add --yes to do it")]


def proof_lines(proof: dict[str, Any]) -> list[str]:
    looked = proof["looked_for"]
    lines = [
        say("{rows} rows erased, {n} things removed", rows=len(proof["rows"]), n=len(proof["removed"])),
        say("{texts} texts looked for in {files} files: {found} found", texts=looked["texts"],
            files=looked["files"], found=len(looked["found"])),
    ]  # fmt: skip
    lines += [
        say("now there: {kind} {hash}", kind=say(r["kind"]), hash=r["hash"][:12])
        for r in proof["replaced_by"]
    ]
    for one in proof["left_to_the_user"]:
        at = f"{one['path']}:{one['line']}" if "line" in one else one["path"]
        lines.append(say("yours to change: {path} ({why})", path=at, why=say(one["why"])))
    return [*lines, say("proof: {path}", path=proof["file"])]


STEPS_SHOWN = 6


def said_how(holder: dict[str, Any]) -> str:
    steps = sorted({step for of_row in holder.get("steps", {}).values() for step in of_row})
    how = "; ".join(say(part) for part in holder["how"].split("; "))
    if not steps:
        return how
    shown = ", ".join(map(str, steps[:STEPS_SHOWN])) + (" …" if len(steps) > STEPS_SHOWN else "")
    return how + ": " + say("steps {steps}", steps=shown)
