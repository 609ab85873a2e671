"""doctor: findings about this machine or others by ssh, what mends them, and snapshots to send."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ....errors import Lacking, Problem, Where, WrongUse
from ...telling.messages import say
from ...telling.output import columns, error_lines, note, result, table
from ..recipes import no_settings

SCHEMA = "steelyard.doctor/2"

Hosts = Annotated[
    list[str] | None,
    typer.Option(
        "--host", metavar="USER@HOST", help=say("Another host by ssh, nothing installed; repeatable.")
    ),
]
Python = Annotated[
    str, typer.Option("--python", metavar="PATH", help=say("The Python of those hosts, 3.7 or later."))
]
Fix = Annotated[
    bool, typer.Option("--fix", help=say("Mend here what is safe to mend, and say what was done."))
]
Record = Annotated[
    Path | None,
    typer.Option("--record", metavar="FILE", help=say("Write what was seen, to judge or send it elsewhere.")),
]
Snapshot = Annotated[
    Path | None,
    typer.Option("--snapshot", metavar="FILE", help=say("Judge what --record wrote, not this machine.")),
]
Kubernetes = Annotated[
    bool, typer.Option("--kubernetes", help=say("Ask the cluster of the kubeconfig too, by kubectl."))
]


def doctor(
    host: Hosts = None,
    python: Python = "python3",
    fix: Fix = False,
    record: Record = None,
    snapshot: Snapshot = None,
    kubernetes: Kubernetes = False,
) -> None:
    no_settings("doctor")
    if host and (fix or record or snapshot):
        _wrong(say("--host looks at other hosts: --fix, --record and --snapshot are for this one"))
    if snapshot and (fix or record):
        _wrong(say("--snapshot judges a file: nothing of this machine is mended or recorded"))
    if host:
        return _others(host, python, kubernetes)
    return _here(fix, record, snapshot, kubernetes)


def _wrong(message: str) -> None:
    hint = "steelyard doctor --fix | steelyard doctor --host user@10.0.0.7"
    raise WrongUse("cli.usage", message, where=Where(field="doctor"), hint=hint)


# ------------------------------------------------------------------ this machine


def _here(fix: bool, record: Path | None, file: Path | None, kubernetes: bool) -> None:
    from ....doctor import examine, mend, read_snapshot, worst
    from ....doctor import snapshot as look

    facts = read_snapshot(file) if file else look(kubernetes=kubernetes)
    if record:
        record.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        note(say("wrote {path}", path=record))
    found = examine(facts)
    mended = mend(found) if fix else []
    if any(one.state == "done" for one in mended):
        found = examine(look(kubernetes=kubernetes))
    document = {"schema": SCHEMA, "host": facts.get("host"), "findings": [_shown(f) for f in found]}
    if fix:
        document["mended"] = [asdict(one) for one in mended]
    result(document, *_mended(mended, fix), *_lines(found))
    if worst(found) == "bad":
        raise typer.Exit(Lacking.exit_code)


def _mended(mended: Sequence[Any], fix: bool) -> list[str]:
    if fix and not mended:
        return [say("nothing to mend that is safe to mend")]
    return [f"{say(one.state):10}  {one.name}: {one.did}" for one in mended]


def _shown(finding: Any) -> dict[str, Any]:
    """A finding as JSON; whether --fix can mend it stands for how."""
    return asdict(finding) | {"mend": finding.mend is not None}


def _lines(found: Sequence[Any], with_ok: bool = True) -> list[str]:
    """A finding a paragraph: symptom, then cause and command."""
    lines = []
    for f in found:
        if f.level == "ok" and not with_ok:
            continue
        lines.append(f"{f.level:5} {f.symptom}" + (f"   [{f.name}]" if f.level != "ok" else ""))
        if f.cause:
            sure = "" if f.certainty == "sure" else f" ({say(f.certainty)})"
            lines.append(f"      {say('cause')}: {f.cause}{sure}")
        if f.fix:
            lines.append(f"      {say('fix:')} {f.fix}")
    return lines


# ------------------------------------------------------------------ other hosts


def _others(names: list[str], python: str, kubernetes: bool) -> None:
    from ....doctor import ask, between, examine, worst

    asked = ask(names, python, kubernetes)
    found = {one.name: examine(one.facts) for one in asked if one.facts is not None}
    clashes = between({one.name: one.facts for one in asked if one.facts is not None})
    failed = {one.name: one.problem for one in asked if one.problem is not None}
    document: dict[str, Any] = {"schema": SCHEMA, "hosts": [], "between": [_shown(f) for f in clashes]}
    for one in asked:
        shown = (
            {"findings": [_shown(f) for f in found[one.name]]}
            if one.name in found
            else _error(failed[one.name])
        )
        document["hosts"].append({"host": one.name} | shown)
    result(document, *_table(found, failed), *_details(found, clashes, failed))
    if failed or worst([*clashes, *(f for each in found.values() for f in each)]) == "bad":
        raise typer.Exit(Lacking.exit_code)


def _error(problem: Problem) -> dict[str, Any]:
    return problem.as_json()


def _table(found: dict[str, Any], failed: dict[str, Any]) -> list[str]:
    """A line a host: its worst level, and what is wrong with it."""
    rows = []
    for name, findings in found.items():
        wrong = [f for f in findings if f.level != "ok"]
        level = wrong[0].level if wrong else "ok"
        rows.append((name, level, ", ".join(dict.fromkeys(f.name for f in wrong)) or say("nothing is wrong")))
    rows += [(name, say("no answer"), problem.message) for name, problem in failed.items()]
    return table((say("host"), "", ""), rows, indent=0, wrap=columns())


def _details(found: dict[str, Any], clashes: Sequence[Any], failed: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for name, findings in found.items():
        if shown := _lines(findings, with_ok=False):
            lines += ["", f"{name}:", *shown]
    if clashes:
        lines += ["", say("between the hosts:"), *_lines(clashes)]
    for problem in failed.values():
        lines += ["", *error_lines(problem)]
    return lines
