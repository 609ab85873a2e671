"""audit: the log of what was done here, shown and verified; receipts of answers, verified."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from typing import Annotated, Any

import typer

from ....errors import CheckFailed, Where, WrongUse
from ...telling.messages import say
from ...telling.output import result, table
from ..recipes import no_settings

LogFolder = Annotated[
    Path | None, typer.Option("--log", metavar="DIR", help=say("Folder of a log; else this installation's."))
]
PublicKey = Annotated[
    str | None,
    typer.Option("--key", metavar="PUB", help=say("Public key of who signed, or a file with it; else ours.")),
]
LAST = 50


def show(
    last: Annotated[int, typer.Option("--last", metavar="N", min=1, help=say("So many lines."))] = LAST,
    act: Annotated[
        str | None, typer.Option("--act", metavar="ACT", help=say("These alone, like model.exported."))
    ] = None,
    log: LogFolder = None,
) -> None:
    no_settings("audit")
    from ....trust import ACTS, log_here, read_acts

    if act is not None and act not in ACTS:
        raise WrongUse("cli.usage", f"no act {act!r}", hint=", ".join(ACTS))
    acts = read_acts(log or log_here())
    shown = list(deque((line for line in acts if act in (None, line.get("act"))), maxlen=last))
    head = ("", say("time"), say("act"), "", say("who"), say("artefact"), say("details"))
    result({"schema": "steelyard.audit/1", "lines": shown}, *table(head, [_row(line) for line in shown], 0))


def _row(line: dict[str, Any]) -> tuple[Any, ...]:
    details = " ".join(f"{name}={_short(value)}" for name, value in line.get("details", {}).items())
    said = [line.get(name, "") for name in ("seq", "at", "act", "outcome", "who")]
    return (*said[:3], say(said[3]), said[4], _short(line.get("artefact") or "-"), details)


def _short(value: Any) -> str:
    """Enough of a hash to find it again."""
    text = str(value)
    return text[:19] if text.startswith("sha256:") else text[:12] if len(text) == 64 else text


def verify(key: PublicKey = None, log: LogFolder = None) -> None:
    no_settings("audit")
    from ....trust import check_log, log_here, verifying_key

    folder, signer = log or log_here(), verifying_key(key)
    report = check_log(folder, signer)
    document = {
        "schema": "steelyard.audit_verify/1",
        "log": str(folder),
        "key": signer.id,
        "intact": report.intact,
        "lines": report.lines,
        "at": report.at,
        "torn_bytes": report.torn_bytes,
        "findings": [finding.as_json() for finding in report.findings],
    }
    count = say("{n} lines, the last of {at}", n=report.lines, at=report.at or "-")
    state = say("intact") if report.intact else say("not as it was written")
    lines = [f"{state}: {count}"]
    lines += [f"  {say(f.text, line=f.line, **f.facts)}" for f in report.findings]
    if report.torn_bytes:
        torn = say("a crash tore {n} bytes of a line that nobody was told of", n=report.torn_bytes)
        lines.append(f"  {say('note:')} {torn}")
    result(document, *lines)
    if not report.intact:
        raise typer.Exit(CheckFailed.exit_code)


def key() -> None:
    no_settings("audit")
    from ....trust import signing_key

    own = signing_key()
    result({"schema": "steelyard.audit_key/1", "public": own.public, "id": own.id}, own.public)


# ------------------------------------------------------------------ receipts of answers


def answer(
    receipt: Annotated[Path | None, typer.Argument(metavar="RECEIPT", show_default=False)] = None,
    request: Annotated[
        Path | None,
        typer.Option("--request", metavar="FILE", help=say("The request's body, as it was sent.")),
    ] = None,
    answer: Annotated[
        Path | None, typer.Option("--answer", metavar="FILE", help=say("The answer's body, as it came."))
    ] = None,
    key: PublicKey = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="HASH", help=say("The model that it must be of."))
    ] = None,
) -> None:
    no_settings("audit")
    if request is None or answer is None:
        hint = "steelyard audit answer RECEIPT --request FILE --answer FILE"
        raise WrongUse("cli.usage", say("a receipt is verified with request and answer"), hint=hint)
    from ....trust import REASONS, check_answer, read_receipt, taken_apart, verifying_key

    body, inside = taken_apart(_bytes(answer))
    line = read_receipt(_bytes(receipt) if receipt else inside or b"")
    wrong = check_answer(line, _bytes(request), body, verifying_key(key), model)
    says = json.loads(line)
    document = {
        "schema": "steelyard.audit_answer/1",
        "verdict": "refused" if wrong else "accepted",
        "reasons": list(wrong),
        "receipt": says,
    }
    lines = [f"{say(document['verdict'])}: {say(REASONS[name])}" for name in wrong] or _accepted(says)
    result(document, *lines)
    if wrong:
        raise typer.Exit(CheckFailed.exit_code)


def _accepted(says: dict[str, Any]) -> list[str]:
    gate = says["gate"]["verdict"] if says["gate"] else say("not judged")
    text = say("{at}, model {model}, gate: {gate}", at=says["at"], model=says["model"] or "-", gate=gate)
    return [f"{say('accepted')}: {text}"]


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as e:
        hint = say("name a file that is there")
        raise WrongUse(
            "audit.no_file", f"cannot read {file}", where=Where(str(file)), why=e.strerror, hint=hint
        ) from e
