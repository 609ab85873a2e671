"""sbom: what is installed, or a model, as CycloneDX; and which known advisories name what is installed."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from ....errors import CheckFailed, Lacking, Where, WrongUse
from ...telling.messages import say
from ...telling.output import note, result, table, tell
from ..recipes import no_settings

OLD_DAYS = 30  # of a list of advisories: several a week are published


def sbom(
    model: Annotated[Path | None, typer.Argument(metavar="[MODEL]", show_default=False)] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help=say("Where to write it; stdout."))
    ] = None,
    files: Annotated[
        bool, typer.Option("--files", help=say("Each installed file too, with its hash."))
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help=say("Look the versions up in a list of advisories instead."))
    ] = False,
    advisories: Annotated[
        Path | None,
        typer.Option(
            "--advisories", metavar="FILE|FOLDER", help=say("Another list than the shipped: OSV files.")
        ),
    ] = None,
) -> None:
    no_settings("sbom")
    if (check and (model or output or files)) or (advisories and not check) or (model and files):
        raise WrongUse(
            "cli.usage",
            say("sbom takes a model, or --files, or --check"),
            where=Where(field="sbom"),
            hint="steelyard sbom --check --advisories FOLDER",
        )
    if check:
        return _check(advisories)
    document = _of_model(model) if model else _installed(files)
    if output is None:
        return tell(json.dumps(document, indent=1, ensure_ascii=False))
    if not output.absolute().parent.is_dir():
        text = f"there is no folder {output.parent}"
        raise WrongUse(
            "sbom.no_folder", text, where=Where(str(output)), hint="make the folder, or name another"
        )
    from ....trust import atomic

    with atomic(output, 0o644) as file:
        file.write(json.dumps(document, indent=1, ensure_ascii=False).encode())
    count = len(document["components"])
    unknown = [c["name"] for c in document["components"] if c["type"] == "library" and "licenses" not in c]
    lines = [say("wrote {path}", path=output), say("  components: {count}", count=count)]
    lines += [say("  unknown licences: {names}", names=", ".join(unknown))] if unknown and not model else []
    return result({"sbom": str(output), "components": count, "unknown_licences": unknown}, *lines)


def _parts() -> list[Any]:
    """Raises Lacking where steelyard runs from a folder and is not installed."""
    from importlib.metadata import PackageNotFoundError

    from ....trust import parts

    try:
        return parts()
    except PackageNotFoundError as error:
        text = "steelyard is not installed here, so nothing says what it needs"
        raise Lacking("sbom.not_installed", text, hint="pip install the checkout or the wheel") from error


def _installed(files: bool) -> dict[str, Any]:
    from ....trust import bill_of_parts

    return bill_of_parts(_parts(), files)


def _of_model(model: Path) -> dict[str, Any]:
    """An artefact by its manifest, any other folder by its files."""
    from ....run import model_facts
    from ....trust import bill_of_model

    facts = model_facts(model)
    rows = [(row["path"], row["sha256"]) for row in facts.manifest["files"]]
    made = facts.manifest if facts.artefact else {}
    return bill_of_model(facts.name, facts.manifest["hash"], rows, facts.licence, made, version("steelyard"))


def _check(path: Path | None) -> None:
    """Exit code 4 where an advisory names what is installed."""
    from ....trust import affected, read_advisories

    parts, known = _parts(), read_advisories(path)
    hits = affected(parts, known)
    document = {
        "schema": "steelyard.advisories_check/1",
        "source": known.source,
        "date": known.date,
        "age_days": known.age_days,
        "advisories": len(known.rows),
        "parts": len(parts),
        "affected": [asdict(hit) for hit in hits],
    }
    if known.age_days > OLD_DAYS:
        note(say("the list is of {date}: what was found since then is not in it", date=known.date))
    text = say(
        "{parts} distributions, {rows} advisories of {date}: {hits} affected",
        parts=len(parts),
        rows=len(known.rows),
        date=known.date,
        hits=len(hits),
    )
    rows = [(h.package, h.version, h.id, ", ".join(h.aliases[:2]), h.fixed or "-") for h in hits]
    head = (say("package"), say("version"), say("advisory"), "", say("fixed in"))
    result(document, text, *(table(head, rows) if rows else []))
    if hits:
        raise typer.Exit(CheckFailed.exit_code)
