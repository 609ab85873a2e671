"""bundle: one archive that installs without a network, or a look at one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ....errors import Where, WrongUse
from ....units import show_bytes
from ...telling.messages import say
from ...telling.output import note, result
from ..recipes import no_settings


def bundle(
    name: Annotated[
        str | None, typer.Argument(metavar="RECIPE|SERVICE|RUN|MODEL", show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "--out", metavar="NAME.tar", help=say("A file that is not there yet.")),
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="train|documents|llamacpp|otel|data",
            help=say("What else goes in: packages, or the recipe's rows; may be repeated."),
        ),
    ] = None,
    unproven: Annotated[
        bool, typer.Option("--unproven", help=say("Bundle what did not pass the gate."))
    ] = False,
    check: Annotated[
        Path | None,
        typer.Option("--check", metavar="NAME.tar", help=say("Compare every file of a bundle instead.")),
    ] = None,
) -> None:
    no_settings("bundle")
    if check is not None and name is None and output is None and not more and not unproven:
        return _check(check)
    if check is not None or name is None or output is None:
        raise WrongUse(
            "cli.usage",
            say("bundle takes what to bundle and --output, or --check alone"),
            where=Where(field="bundle"),
            hint="steelyard bundle demo --output demo.tar",
        )
    _make(name, output, tuple(more or ()), unproven)


def _make(name: str, output: Path, more: tuple[str, ...], unproven: bool) -> None:
    from ....run import BundleOrder, bundle
    from ...telling.terminal import Terminal

    with Terminal() as watch:
        made = bundle(BundleOrder(name=name, out=output, more=more, unproven=unproven), watch, _sizes)
    where = f"{made.system} {made.machine}, CPython {made.python}"
    where += f", glibc {made.glibc}" if made.glibc else ""
    result(
        made.as_json(),
        say("wrote {path}", path=output) + f"   {show_bytes(made.bytes)}",
        f"  SHA-256: {made.sha256}",
        say("  {wheels} wheels for {where}", wheels=made.wheels, where=where),
        f"{say('next, there:')} tar xf {output.name} && python{made.python} {output.stem}/install.py DIR",
    )


def _sizes(sizes: Any) -> None:
    """Before it is made: what it may come to."""
    rows = [say("{n} wheels (at most {size})", n=sizes.wheels, size=show_bytes(sizes.installed_bytes))]
    rows.append(say("the model {size}", size=show_bytes(sizes.model_bytes)))
    if sizes.recipe_bytes:
        rows.append(say("the recipe {size}", size=show_bytes(sizes.recipe_bytes)))
    note(say("bundling {parts}", parts=", ".join(rows)))


def _check(file: Path) -> None:
    from ....run import check_bundle

    about = check_bundle(file)
    where = f"{about['system']} {about['machine']}, CPython {about['python']}"
    result(
        about,
        say("{path} is whole: {n} files, steelyard {version} for {where}",
            path=file, n=about["files"], version=about["steelyard"], where=where),
    )  # fmt: skip
