"""attest: is a quote of the enclave or trust domain that a policy names?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import Refused, Where, WrongUse
from ..telling.messages import say
from ..telling.options import OPTIONS
from ..telling.output import result, table
from .recipes import no_settings

HINT = "steelyard attest verify QUOTE --collateral FILE --policy POLICY.yaml --at 2026-09-01T12:00:00Z"


def attest(
    action: Annotated[str, typer.Argument(metavar="verify", show_default=False)],
    quote: Annotated[Path | None, typer.Argument(metavar="QUOTE", show_default=False)] = None,
    collateral: Annotated[
        Path | None,
        typer.Option("--collateral", metavar="FILE", help=say("Intel's data on the platform, JSON.")),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option("--policy", metavar="FILE", help=say("What is accepted, YAML."))
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="RFC3339", help=say("The time of the appraisal; no other clock.")),
    ] = None,
    nonce: Annotated[
        str | None, typer.Option("--nonce", metavar="HEX", help=say("What the quote was asked with."))
    ] = None,
    runtime_data: Annotated[
        Path | None,
        typer.Option("--runtime-data", metavar="FILE", help=say("Hashed with the nonce, such as a TLS key.")),
    ] = None,
    nonce_store: Annotated[
        Path | None,
        typer.Option("--nonce-store", metavar="FILE", help=say("Nonces accepted before; none twice.")),
    ] = None,
    batch: Annotated[
        Path | None, typer.Option("--batch", metavar="FILE.jsonl", help=say("Cases, one a line, instead."))
    ] = None,
) -> None:
    no_settings("attest")
    one = (quote, collateral, policy, at)
    if action == "verify" and batch and not any((*one, nonce, runtime_data, nonce_store)):
        return _batch(batch)
    if action == "verify" and batch is None and quote and collateral and policy and at:
        from ...trust import judge, read_case

        return _show(
            judge(read_case(quote, collateral, policy, at, nonce, runtime_data, nonce_store)).as_json()
        )
    raise WrongUse(
        "cli.usage",
        say("attest verify takes a quote, its collateral, a policy and a time; or --batch alone"),
        where=Where(field="attest"),
        hint=HINT,
    )


def _batch(path: Path) -> None:
    """Exit code 0 once every line has its verdict."""
    from ...trust import judge, read_batch

    for name, case in read_batch(path):
        document = {"id": name} | judge(case).as_json()
        result(document, f"{name}  {_line(document)}")


def _show(document: dict[str, Any]) -> None:
    rows = list(document["measurements"].items()) if OPTIONS.verbose else []
    result(document, _line(document), *_facts(document), *(table(("", ""), rows) if rows else []))
    if document["verdict"] != "accepted":
        raise typer.Exit(Refused.exit_code)


def _line(document: dict[str, Any]) -> str:
    reason = document["reason"]
    if document["verdict"] == "accepted":
        return f"{say('accepted')}: {document['detail']}"
    return f"{say('rejected')}: {say(reason)}   [{reason}]  {document['detail']}"


def _facts(document: dict[str, Any]) -> list[str]:
    if document["tcb_status"] is None:
        return []
    named = ", ".join(document["advisories"]) or say("none")
    version = f"{document['tee'].upper()} v{document['quote_version']}"
    return [f"  {version}   TCB {document['tcb_status']}   {say('advisories')}: {named}"]
