"""broker serve, broker get: keys that only attested software gets, and how it gets them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ....errors import WrongUse
from ...telling.messages import say
from ...telling.output import note, result
from ..recipes import no_settings


def serve(
    resources: Annotated[
        Path,
        typer.Option("--resources", metavar="DIR", help=say("REPOSITORY/TYPE/TAG below it, mode 0600.")),
    ],
    policy: Annotated[
        Path, typer.Option("--policy", metavar="FILE", help=say("What a quote must show, YAML."))
    ],
    collateral: Annotated[
        Path, typer.Option("--collateral", metavar="FILE", help=say("Intel's data on the platform, JSON."))
    ],
    host: Annotated[str, typer.Option("--host", metavar="HOST")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="PORT", min=0, max=65535)] = 8080,
    tls_cert: Annotated[
        Path | None,
        typer.Option("--tls-cert", metavar="FILE", help=say("Speak HTTPS with this certificate.")),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", metavar="FILE", help=say("The certificate's key."))
    ] = None,
) -> None:
    no_settings("broker")
    from ....broker import Settings, run_broker

    def ready(url: str) -> None:
        document = {"schema": "steelyard.broker/1", "url": url, "protocol": "0.4.0"}
        result(document, say("keys for attested software at {url}", url=url))
        note(
            say("Ctrl-C stops it; in a trust domain: steelyard broker get {url} REPOSITORY/TYPE/TAG", url=url)
        )

    settings = Settings(resources=resources, policy=policy, collateral=collateral)
    tls = (tls_cert, tls_key) if tls_cert else None
    run_broker(settings, host=host, port=port, tls=tls, ready=ready)


def get(
    url: Annotated[str, typer.Argument(metavar="URL", show_default=False)],
    resource: Annotated[str, typer.Argument(metavar="REPOSITORY/TYPE/TAG", show_default=False)],
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help=say("Where to write it."))],
    ca: Annotated[
        Path | None, typer.Option("--ca", metavar="FILE", help=say("Whose certificate the broker shows."))
    ] = None,
    key: Annotated[
        str,
        typer.Option("--key", metavar="KIND", help=say("It is encrypted for: akp (ML-KEM-768), ec or rsa.")),
    ] = "akp",
) -> None:
    no_settings("broker")
    from ....broker import get_key
    from ....trust import atomic, quote_of_this_domain

    if not output.parent.is_dir():
        raise WrongUse(
            "broker.output", f"there is no folder {output.parent}", hint=say("name a folder that is there")
        )
    secret = get_key(url, resource, quote_of_this_domain, kind=key, ca=ca)
    with atomic(output) as file:
        file.write(secret)
    result({"written": str(output), "bytes": len(secret)}, say("wrote {path}", path=output))
