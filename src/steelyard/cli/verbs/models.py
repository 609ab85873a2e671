"""hardware, pull, scan, export: devices and model files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import CheckFailed, Where, WrongUse
from ...units import show_bytes, show_s
from ..telling.acts import written
from ..telling.messages import say
from ..telling.options import OPTIONS
from ..telling.output import note, result, table
from .recipes import no_settings


def hardware(
    device: Annotated[str | None, typer.Argument(metavar="ID", show_default=False)] = None,
) -> None:
    no_settings("hardware")
    from ...hardware import catalogue, probe

    if device:
        return _one_device(catalogue().find(device))
    machine = probe()
    rows = [_device_row(row) for row in catalogue()]
    here = say(
        "this machine: {cpu}, {cores} cores, {memory}, nearest {device}",
        cpu=machine.cpu_model,
        cores=machine.cores,
        memory=show_bytes(machine.memory_bytes),
        device=machine.nearest_device,
    )
    document: dict[str, Any] = {"schema": "steelyard.hardware/1", "machine": asdict(machine)}
    document["devices"] = [asdict(row) for row in catalogue()]
    head = (
        "id",
        say("name"),
        say("memory"),
        "GB/s",
        "BF16 TFLOP/s",
        "W",
        "USD/h",
        say("confidence"),
        say("source"),
    )
    result(document, here, *table(head, rows), f"{say('next:')} steelyard hardware ID")
    return None


def _one_device(device: Any) -> None:
    """Every figure of one device with its source; sources that are shared by many stand once."""
    from ...hardware import sheet

    figures = sheet(device)
    sources = list(dict.fromkeys(f["source"] for f in figures))
    rows = [
        (say(f["figure"]), f["value"], f["unit"], f["confidence"], f"[{sources.index(f['source']) + 1}]")
        for f in figures
    ]
    head = (say("figure"), "", "", say("confidence"), say("source"))
    notes = [f"  [{i + 1}] {source}" for i, source in enumerate(sources)]
    remark = [f"  {say('note:')} {device.note}"] if device.note else []
    document = {"schema": "steelyard.device/1"} | asdict(device) | {"figures": figures}
    after = f"{say('next:')} steelyard plan --model llama3-8b --device {device.id}"
    result(document, device.name, *table(head, rows), *notes, *remark, after)


def _device_row(device: Any) -> tuple[Any, ...]:
    peak = device.peak_flops("bf16")
    return (
        device.id,
        device.name[:48],
        show_bytes(device.memory_bytes),
        device.memory_bytes_per_s / 1e9,
        peak / 1e12 if peak else None,
        device.tdp_w,
        device.price_usd_per_h,
        device.confidence,
        device.source[:60],
    )


def pull(
    model: Annotated[str, typer.Argument(metavar="ID")],
    source: Annotated[str, typer.Option("--from", metavar="SOURCE", help="hf | modelscope | DIR")] = "hf",
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help=say("Where to put it; the cache."))
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", metavar="URL", help=say("Another address of the hub."))
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="NAME", help=say("Branch, tag or commit."))
    ] = None,
) -> None:
    no_settings("pull")
    from ...hub import is_here, pull

    if OPTIONS.offline and source in ("hf", "modelscope") and not is_here(model, output, revision):
        raise WrongUse(
            "cli.offline",
            say("offline: nothing is fetched"),
            why="--offline or HF_HUB_OFFLINE is set",
            hint="--from DIR",
        )
    from ..telling.terminal import Terminal

    with Terminal() as watch:
        pulled = pull(model, source, output, endpoint, watch, revision)
    if pulled.bytes:
        _note_pulled(pulled)
    document = {"schema": "steelyard.pull/1"} | asdict(pulled)
    licence = pulled.licence or say("states no licence: ask its maker before you use it")
    for left in pulled.left_out:
        note(f"  {say('left out')}: {left}")
    headline = say("{model} is here: {folder}", model=pulled.model_id, folder=pulled.folder)
    result(
        document,
        headline,
        *([f"  {say('revision')}: {pulled.revision}"] if pulled.revision else []),
        f"  {say('licence')}: {licence}",
        f"{say('next:')} steelyard serve {pulled.folder}",
    )


def _note_pulled(pulled: Any) -> None:
    from ...artefact import adopt

    written(
        "model.pulled",
        artefact=adopt(pulled.folder).hash,
        model=pulled.model_id,
        revision=pulled.revision,
        bytes=pulled.bytes,
    )


def scan(path: Annotated[Path, typer.Argument(metavar="PATH")]) -> None:
    no_settings("scan")
    from ...trust import scan

    if not path.exists():
        raise WrongUse(
            "scan.missing", f"there is no {path}", where=Where(str(path)), hint=say("name a file or folder")
        )
    results = scan(path)
    document = {"schema": "steelyard.scan/1", "files": [asdict(f) for f in results]}
    bad, unsure = ([f for f in results if f.verdict == verdict] for verdict in ("unsafe", "unknown"))
    rows = [
        (f.verdict, f.path, "; ".join(f.reasons)) for f in results if OPTIONS.verbose or f.verdict != "safe"
    ]
    headline = say(
        "{bad} of {n} files are unsafe, {unknown} unknown", bad=len(bad), n=len(results), unknown=len(unsure)
    )
    result(document, headline, *(table(("", say("file"), say("why")), rows) if rows else []))
    if bad or unsure:
        raise typer.Exit(CheckFailed.exit_code)


# ------------------------------------------------------------------ what leaves

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
    result({"schema": "steelyard.export/1"} | exported, *export_lines(exported))


def export_lines(exported: dict[str, Any]) -> list[str]:
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
