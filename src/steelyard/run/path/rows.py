"""Where every row that was read ended: taught, held out, or dropped with its reason. The sums are checked.

    read = kept + dropped in all          kept = taught + held_out

`clean` gives account.json, `train` gives taught.json. Before training `taught` and what
follows from it are null, and `kept` is what cleaning kept.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...artefact import Artefact
from ...errors import Problem, Where
from .run import Run

PASSED_BY = "not_in_"
OF_TRAINING = ("taught", "split", "truncated", "tokens_taught")


def account_rows(run: Run, artefact: Artefact) -> None:
    """Into the outcome: what the artefacts so far tell of the rows."""
    dataset = run.artefacts.get("dataset")
    if dataset is None:
        return
    account = read_json(dataset.path("account.json"))
    if account is None:
        return
    taught = read_json(artefact.path("taught.json")) if artefact.kind == "checkpoint" else None
    if taught is not None:
        run.taught[taught.get("of", "all")] = taught
    rows = compose(account, of_stages(run.taught))
    if wrong := fault_of(rows):
        raise Problem(
            "rows.do_not_add_up",
            f"the account of the rows does not add up: {wrong}",
            where=Where(str(dataset.folder / "account.json")),
            hint="this is a bug in steelyard; please report it with this file",
        )
    run.outcome.rows = rows


def of_stages(taught: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """One account of the stages so far, by which rows they teach; None before the first.

    A row that one stage passes by is another's (pt teaches texts, sft chats, dpo pairs); those that none has
    taught yet stand under the last stage's word. Stages that teach the same rows are one account, the last
    one's.
    """
    parts = list(taught.values())
    if len(parts) < 2:
        return parts[0] if parts else None
    sums = {name: sum(part[name] for part in parts) for name in OF_TRAINING}
    dropped = sum((Counter(part["dropped"]) for part in parts), Counter[str]())
    passed_by = [name for name in dropped if name.startswith(PASSED_BY)]
    for name in passed_by:
        del dropped[name]
    left = parts[0]["rows"] - sums["taught"] - dropped.total()
    return sums | {"dropped": dict(dropped + Counter({passed_by[-1]: left} if left else {}))}


def compose(account: Mapping[str, Any], taught: Mapping[str, Any] | None) -> dict[str, Any]:
    """The contract's `rows`, of what cleaning and training counted."""
    dropped = Counter(account["by_reason"])
    rows = {name: account[name] for name in ("read", "kept", "held_out")}
    if taught is None:
        return rows | {"dropped": dict(sorted(dropped.items()))} | dict.fromkeys(OF_TRAINING)
    dropped.update(taught["dropped"])
    rows["kept"] -= sum(taught["dropped"].values())
    return rows | {"dropped": dict(sorted(dropped.items()))} | {name: taught[name] for name in OF_TRAINING}


def fault_of(rows: Mapping[str, Any]) -> str | None:
    """Which sum does not hold; None where both do."""
    dropped = sum(rows["dropped"].values())
    if rows["read"] != rows["kept"] + dropped:
        return f"{rows['read']} read, {rows['kept']} kept and {dropped} dropped"
    if rows["taught"] is not None and rows["kept"] != rows["taught"] + rows["held_out"]:
        return f"{rows['kept']} kept, {rows['taught']} taught and {rows['held_out']} held out"
    if min(rows["read"], rows["kept"], rows["held_out"], *rows["dropped"].values()) < 0:
        return "a count is negative"
    return None


def read_json(path: Path) -> dict[str, Any] | None:
    """None where the file is not there: an artefact of a room that does not write it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
