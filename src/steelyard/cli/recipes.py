"""init and validate: a first recipe, and what a recipe comes to."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import Where, WrongUse
from .messages import say
from .options import OPTIONS
from .output import note, result, table

DEFAULT = Path("steelyard.yaml")
RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", show_default=False)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help=say("Do not ask."))]


def load(path: Path) -> Any:
    """The recipe of a file with this command line's --set; what has no effect is said."""
    from ..recipe import load

    made = load(path, OPTIONS.settings)
    for text in made.notes:
        note(f"{say('note:')} {text}")
    return made


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
    from ..recipe import draft, load
    from .first import answers_for, map_of, write_sample

    answers = answers_for(folder, data or [], model, name, map_of(map), ask=not (yes or OPTIONS.json))
    folder.mkdir(parents=True, exist_ok=True)
    made = [] if answers.data else [write_sample(folder, OPTIONS.language)]
    answers = answers if answers.data else answers_for(folder, made, model, answers.name, ask=False)
    path.write_text(draft(answers, OPTIONS.language), encoding="utf-8")
    load(path)  # what we write is right, or this is our fault
    written = [str(file) for file in (path, *made)]
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
) -> None:
    if path.suffix.lower() == ".csv":
        no_settings("validate RESULTS.csv")
        from .results import score_results

        return score_results(path, predictions, calibrate)
    for flag, given in (("--predictions", predictions), ("--calibrate", calibrate)):
        if given:
            text = say("{flag} goes with a CSV of results", flag=flag)
            raise WrongUse("cli.usage", text, where=Where(field=flag), hint=say("leave it out"))
    from ..recipe import effective
    from ..run import check_data, check_model

    made = load(path)
    check_model(made)
    account = check_data(made)
    values = effective(made)
    document = {
        "schema": "steelyard.validate/1",
        "recipe": str(path),
        "hash": made.hash,
        "values": {key: {"value": value, "origin": made.origins[key]} for key, value in values.items()},
        "notes": list(made.notes),
        "data": account or None,
    }
    rows = [(key, _shown(value, made.origins[key]), say(made.origins[key])) for key, value in values.items()]
    head = (say("key"), say("value"), say("origin"))
    good = say("{path} is a good recipe", path=path)
    result(document, good, *_rows_line(account), *table(head, rows), f"{say('next:')} steelyard up {path}")


def _rows_line(account: dict[str, Any]) -> list[str]:
    """What cleaning will make of the data."""
    if not account:
        return []
    return [say("{rows} rows read, {kept} kept, {dropped} dropped, {held_out} held out", rows=account["read"],
                kept=account["kept"], dropped=account["dropped"], held_out=account["held_out"])]  # fmt: skip


def _shown(value: Any, origin: str) -> str:
    if value is None:
        return say("(the plan fills it)") if origin == "plan" else "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
