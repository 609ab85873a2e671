"""export: what passed the gate, as a file that other programs load, loaded back by them and judged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ...units import show_bytes, show_s
from ..telling.messages import say
from ..telling.output import result, table
from .recipes import no_settings

LEADS = {
    "hf": "steelyard serve {out}",
    "adapter": "steelyard serve BASE --adapter NAME={out}",
    "gguf": "steelyard serve {out}/model.gguf --engine llamacpp",
    "ollama": "cd {out} && ollama create NAME -f Modelfile",
    "awq": "vllm serve {out}",
}


def export(
    artefact: Annotated[str, typer.Argument(metavar="SERVICE|RUN|ARTEFACT|MODEL")],
    to: Annotated[str, typer.Option("--to", metavar="FORM", help="hf | gguf | ollama | awq | adapter")],
    output: Annotated[
        Path, typer.Option("--output", "--out", metavar="DIR", help=say("A folder that is not there yet."))
    ],
    form: Annotated[
        str | None,
        typer.Option("--form", metavar="FORM", help=say("Of GGUF: Q8_0 (default), Q4_K_M or BF16.")),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            "--rows",
            metavar="N",
            min=0,
            help=say("Held-out rows an ability to judge it by; those of the verdict, 0: none."),
        ),
    ] = None,
    may_lose: Annotated[
        float,
        typer.Option(
            "--may-lose", metavar="SHARE", min=0, max=1, help=say("Of an ability's score, on the way out.")
        ),
    ] = 0.01,
    unproven: Annotated[
        bool, typer.Option("--unproven", help=say("Export what did not pass the gate, or loses more."))
    ] = False,
    key_file: Annotated[
        Path | None, typer.Option("--key-file", metavar="FILE", help=say("Key of a guarded artefact."))
    ] = None,
) -> None:
    no_settings("export")
    from ...run import Order, export_model
    from ..telling.terminal import Terminal

    order = Order(
        name=artefact, to=to, out=output, form=form, key_file=key_file, unproven=unproven, rows=rows,
        may_lose=may_lose,
    )  # fmt: skip
    with Terminal() as watch:
        exported = export_model(order, watch).as_json()
    result({"schema": "steelyard.export/1"} | exported, *lines(exported))


def lines(exported: dict[str, Any]) -> list[str]:
    """What was written, its scores beside those of what was exported, and what to do with it."""
    wrote = say("wrote {path}", path=exported["folder"])
    size = f"{show_bytes(exported['bytes'])}, {show_s(exported['wall_s']['write'])}"
    told = [f"{wrote}   {size}"]
    if not exported["passed"]:
        told.append(f"  {say('note:')} {say('unproven: it did not pass the gate')}")
    if tokens := exported["calibration_tokens"]:
        told.append("  " + say("rounded by {n} tokens of your rows", n=tokens))
    told += _judged(exported)
    return [*told, f"{say('next:')} {LEADS[exported['to']].format(out=exported['folder'])}"]


def _judged(exported: dict[str, Any]) -> list[str]:
    judged = exported["judged"]
    if judged is None:
        why = say("not loaded back by {loader}: {why}", loader=exported["loader"], why=exported["not_judged"])
        hint = f"   {say('fix:')} {exported['hint']}" if exported["hint"] else ""
        return [f"  {why}{hint}"]
    rows = [
        (
            name,
            f"{100 * judged['before'][name]:.1f}",
            f"{100 * after:.1f}",
            f"{-100 * exported['lost'][name]:+.1f}",
            judged["rows"][name],
        )
        for name, after in judged["after"].items()
    ]
    head = (say("ability"), say("before"), say("as exported"), say("points"), say("rows"))
    by = say("loaded back by {loader} and scored on held-out rows", loader=exported["loader"])
    left = (
        [say("{n} rows with tools or a judge were left out", n=judged["left_out"])]
        if judged["left_out"]
        else []
    )
    return [f"  {by}", *table(head, rows), *(f"  {text}" for text in left)]
