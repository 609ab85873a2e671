"""init and validate: a first recipe, and what a recipe comes to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import Where, WrongUse
from ..telling.messages import say
from ..telling.options import OPTIONS
from ..telling.output import columns, note, result, table

DEFAULT = Path("steelyard.yaml")
LONGEST = 28  # characters of a value in the table of `validate`; --json has it whole
RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", show_default=False)]
Ray = Annotated[
    str | None,
    typer.Option("--ray", metavar="ADDRESS", help=say("Train on the nodes of the cluster with this head.")),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help=say("Do not ask."))]


def load(path: Path, ray: str | None = None, more: Sequence[str] = ()) -> Any:
    """The recipe of a file with this command line's --set and `more`; what has no effect is noted."""
    from ...recipe import load

    files = load(path, [*OPTIONS.settings, *([f"resources.ray={ray}"] if ray else []), *more])
    for text in files.notes:
        note(f"{say('note:')} {text}")
    return files


def no_settings(verb: str) -> None:
    """--set is for verbs with a recipe; elsewhere it would be ignored, so it is refused."""
    if OPTIONS.settings:
        raise WrongUse(
            "cli.usage",
            say("{verb} reads no recipe, so --set has no effect", verb=verb),
            where=Where(field="--set"),
            hint=say("leave --set out"),
        )


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", show_default=False)] = Path("."),
    data: Annotated[
        list[Path] | None, typer.Option("--data", metavar="FILE", help=say("A data file; may be repeated."))
    ] = None,
    model: Annotated[
        str, typer.Option("--model", metavar="MODEL", help=say("demo, a folder, a GGUF file or a hub id."))
    ] = "",
    name: Annotated[str, typer.Option("--name", metavar="NAME", help=say("Name of the job."))] = "",
    map: Annotated[
        str,
        typer.Option(
            "--map", metavar="WORD=COLUMN,...", help=say("Columns: user=COLUMN[+COLUMN],assistant=COLUMN.")
        ),
    ] = "",
    force: Annotated[bool, typer.Option("--force", help=say("Overwrite a recipe that is there."))] = False,
    yes: Yes = False,
) -> None:
    no_settings("init")
    path = folder / DEFAULT
    if path.exists() and not force:
        raise WrongUse(
            "init.exists",
            say("{path} is there already", path=path),
            where=Where(str(path)),
            hint=say("choose another folder, or --force to overwrite it"),
        )
    from ...recipe import draft, load
    from ..asking.first import answers_for, map_of, write_sample

    answers = answers_for(folder, data or [], model, name, map_of(map), ask=not (yes or OPTIONS.json))
    folder.mkdir(parents=True, exist_ok=True)
    files = [] if answers.data else [write_sample(folder, OPTIONS.language)]
    answers = answers if answers.data else answers_for(folder, files, model, answers.name, ask=False)
    path.write_text(draft(answers, OPTIONS.language), encoding="utf-8")
    load(path)  # what we write is right, or this is our fault
    written = [str(file) for file in (path, *files)]
    document = {"schema": "steelyard.init/1", "recipe": str(path), "written": written,
                "data": [asdict(file) for file in answers.data]}  # fmt: skip
    lines = [say("wrote {path}", path=file) for file in written]
    verb = "validate" if any(file.unmapped for file in answers.data) else "up"
    result(document, *lines, f"{say('next:')} steelyard {verb} {path}")


def validate(
    path: Annotated[Path, typer.Argument(metavar="RECIPE.yaml|RESULTS.csv", show_default=False)] = DEFAULT,
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions", metavar="OUT.json", help=say("Write the prediction of each row of a CSV here.")
        ),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            "--calibrate", metavar="ROWS.csv", help=say("Measured rows of your own stack; three are enough.")
        ),
    ] = None,
    ray: Ray = None,
) -> None:
    if path.suffix.lower() == ".csv":
        no_settings("validate RESULTS.csv")
        from .results import score_results

        return score_results(path, predictions, calibrate)
    for flag, given in (("--predictions", predictions), ("--calibrate", calibrate)):
        if given:
            text = say("{flag} goes with a CSV of results", flag=flag)
            raise WrongUse("cli.usage", text, where=Where(field=flag), hint=say("leave it out"))
    _recipe(path, ray)


def _recipe(path: Path, ray: str | None) -> None:
    """Refuse whatever `up` would refuse; show each value that it would run with, and where it comes from."""
    from ...recipe import effective
    from ...run import check_data, check_model, settle
    from ..telling.plan_lines import command_lines, engine_lines, gate_lines, row_lines
    from ..telling.terminal import Terminal

    recipe = load(path, ray)
    check_model(recipe)
    account = check_data(recipe)
    with Terminal() as watch:
        settled = settle(recipe, watch)
    values = {
        key: filled(key, value, recipe.origins[key], settled) for key, value in effective(recipe).items()
    }
    document = {
        "schema": "steelyard.validate/1",
        "recipe": str(path),
        "hash": recipe.hash,
        "values": {key: {"value": value, "origin": origin} for key, (value, origin) in values.items()},
        "notes": list(recipe.notes),
        "data": account or None,
        "facts": settled.get("facts"),
        "engines": settled.get("engines"),
        "gate": settled.get("gate"),
        "launch": settled.get("launch"),
        "absent_devices": settled.get("absent"),
    }
    rows = [
        (key, _shown(key, value, origin), _origin(origin))
        for key, (value, origin) in values.items()
        if (value, origin) != (None, "default")  # nobody asked for it and nothing follows from it
    ]
    head = (say("key"), say("value"), say("origin"))
    good = say("{path} is a good recipe", path=path)
    _note_absent(recipe.model, settled)
    lines = [
        *_rows_line(account),
        *row_lines(settled),
        *gate_lines(settled),
        *table(head, rows, wrap=columns()),
        *engine_lines(settled),
        *(command_lines(launch) if (launch := settled.get("launch")) else []),
    ]
    result(document, good, *lines, f"{say('next:')} steelyard up {path}")


def _note_absent(model: str, settled: dict[str, Any]) -> None:
    """What is not on this machine: the model, a device that the recipe wants."""
    if not settled:
        note(say("the model {model} is not on this machine: only its data were checked", model=model))
    for device in dict.fromkeys(settled.get("absent") or ()):
        text = "no {device} device can be used here: `up` will refuse this recipe on this machine"
        note(say(text, device=device))


def _rows_line(account: dict[str, Any]) -> list[str]:
    """What cleaning will make of the data."""
    if not account:
        return []
    counts = {name: f"{account[name]:,}" for name in ("kept", "dropped", "held_out")}
    read = f"{account['read']:,}"
    text = say("{rows} rows read, {kept} kept, {dropped} dropped, {held_out} held out", rows=read, **counts)
    return [f"  {text}"]


def filled(key: str, value: Any, origin: str, settled: dict[str, Any]) -> tuple[Any, str]:
    """A value and its origin; what the recipe leaves to the plan as the plan has filled it."""
    if origin != "plan" or not settled:
        return value, origin
    section, _, name = key.rpartition(".")
    planned: Any = settled["settings"]
    for part in section.split("."):
        planned = planned[int(part)] if isinstance(planned, list) else planned.get(part) or {}
    names = {"per_device_train_batch_size": "micro_batch", "gradient_accumulation_steps": "grad_accum"}
    own = planned.get({"compress.weights": "form"}.get(key, names.get(name, name)))
    if own is None:  # what cleaning leaves open the data decide; what the plan leaves open has no effect
        return value, origin if section == "clean" else "default"
    return own, settled["origins"].get(key, origin)


def _origin(origin: str) -> str:
    kind, colon, why = origin.partition(": ")
    return f"{say(kind)}: {say(why)}" if colon else say(origin)


def _shown(key: str, value: Any, origin: str) -> str:
    """The value, short: a table of 80 columns holds it."""
    if value is None:
        chosen = say("(from the data)") if key.startswith("clean.") else say("(the plan fills it)")
        return chosen if origin == "plan" else "-"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
