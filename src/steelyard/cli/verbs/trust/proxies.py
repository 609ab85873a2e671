"""proxy: a local OpenAI endpoint that seals prompts for a service it has appraised."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ...telling.messages import say
from ...telling.output import note, result
from ..recipes import no_settings


def proxy(
    url: Annotated[str, typer.Argument(metavar="URL", show_default=False)],
    policy: Annotated[
        Path | None, typer.Option("--policy", metavar="FILE", help=say("What its quote must show, YAML."))
    ] = None,
    pin: Annotated[
        str | None, typer.Option("--pin", metavar="SHA256", help=say("Its key, where it is not attested."))
    ] = None,
    collateral: Annotated[
        Path | None,
        typer.Option("--collateral", metavar="FILE", help=say("Intel's data, in place of what it sends.")),
    ] = None,
    port: Annotated[int, typer.Option("--port", metavar="PORT", min=0, max=65535)] = 8001,
) -> None:
    no_settings("proxy")
    from ....serving import Accepts
    from ....serving import proxy as run_here

    def ready(told: dict[str, Any]) -> None:
        verdict = told["appraisal"]
        why = verdict["detail"] if verdict else say("its pin holds")
        line = say("{here}/v1 seals for {service}: {why}", here=told["url"], service=told["service"], why=why)
        code = say(
            "code {code}, revision {revision}, model {artefact}", code=told["code_sha256"][:16],
            revision=(told["revision"] or say("not known"))[:16], artefact=(told["artefact"] or "-")[:16],
        )  # fmt: skip
        result({"schema": "steelyard.proxy/1"} | told, line, code)
        note(say("Ctrl-C stops it; in another terminal: steelyard chat {url}", url=told["url"]))

    run_here(url, Accepts(policy=policy, pin=pin, collateral=collateral), port, ready)
