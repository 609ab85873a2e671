"""data show, diff, report: a person looks at rows, and at what another rule would have dropped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ....errors import Where, WrongUse
from ...telling.messages import say
from ...telling.output import broken, columns, note, paged, result, table
from ..recipes import no_settings
from .rules import settings_of

CHARS = 600  # of a row's text on a terminal

Reasons = Annotated[
    str, typer.Option("--reason", metavar="REASON,...", help=say("Dropped for one of these."))
]
Abilities = Annotated[str, typer.Option("--ability", metavar="NAME,...", help=say("Of these abilities."))]
Languages = Annotated[str, typer.Option("--language", metavar="en,zh,...", help=say("In these languages."))]
Ids = Annotated[list[str] | None, typer.Option("--id", metavar="ID", help=say("This row; may be repeated."))]
SetPath = Annotated[Path, typer.Argument(metavar="SET")]
SourcePath = Annotated[
    Path | None,
    typer.Option(
        "--source", metavar="FILE|DIR|RECIPE", help=say("Where the rows came from: texts of dropped rows.")
    ),
]
MaxLength = Annotated[
    int | None,
    typer.Option("--max-length", metavar="TOKENS", min=1, help=say("Lengths are held against it.")),
]
RULES = "RULES"


def show(
    set: SetPath,
    reason: Reasons = "",
    ability: Abilities = "",
    language: Languages = "",
    id: Ids = None,
    kept: Annotated[
        bool | None, typer.Option("--kept/--dropped", help=say("Rows that stayed, or that did not."))
    ] = None,
    source: SourcePath = None,
    rules: Annotated[
        str,
        typer.Option("--rules", metavar=RULES, help=say("Of data not cleaned yet: off=spam,dedup=exact.")),
    ] = "",
    offset: Annotated[int, typer.Option("--offset", metavar="N", min=0, help=say("Rows to pass over."))] = 0,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=0, help=say("Rows shown; 0: all."))] = 20,
    chars: Annotated[int, typer.Option("--chars", metavar="N", min=1, help=say("Of a row's text."))] = CHARS,
) -> None:
    no_settings("data show")
    from ....data import Wanted
    from ....data import show as rows_of

    wanted = Wanted(_names(reason), _names(ability), _names(language), tuple(id or ()), kept)
    dataset = opened(set, source, rules)
    if dataset.origin is None and kept is not True:
        note(say("note: texts of dropped rows lie with their source; --source names it"))
    rows = rows_of(dataset, wanted, offset, limit or None)
    finish(rows, chars, {"schema": "steelyard.data_show/1", "set": dataset.name, "offset": offset})


def finish(rows: Iterator[dict[str, Any]], chars: int, document: dict[str, Any]) -> None:
    from ...telling.options import OPTIONS

    if OPTIONS.json:
        return result(document | {"rows": list(rows)})
    count = 0

    def lines() -> Iterator[str]:
        nonlocal count
        for row in rows:
            count += 1
            yield from row_lines(row, chars)

    paged(lines())
    if not count:
        note(say("no row fits"))


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help=say("A cleaned set, a recipe, or rules with --on."))],
    b: Annotated[str, typer.Argument(metavar="B")],
    on: Annotated[
        Path | None,
        typer.Option(
            "--on", metavar="FILE|DIR", help=say("Rows for two rule sets: usual, off=spam, RECIPE.")
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", metavar="N", min=0, help=say("Rows shown for each reason."))
    ] = 3,
    chars: Annotated[int, typer.Option("--chars", metavar="N", min=1, help=say("Of a row's text."))] = 300,
) -> None:
    no_settings("data diff")
    from ....data import differences

    one, other = (opened(on, None, name) if on else opened(Path(name), None, "") for name in (a, b))
    told = differences(one, other, samples)
    document = {"schema": "steelyard.data_diff/1", "a": a, "b": b} | told
    from ...telling.options import OPTIONS

    if OPTIONS.json:
        return result(document)
    paged(diff_lines(told, a, b, chars))


def report(
    set: SetPath,
    output: Annotated[
        Path, typer.Option("--output", metavar="FILE", help=say("Where the page goes."))
    ] = Path("data-report.html"),
    source: SourcePath = None,
    max_length: MaxLength = None,
) -> None:
    no_settings("data report")
    document = write_page(opened(set, source, ""), output, max_length)
    result(document, say("wrote {path}", path=output))


def write_page(dataset: Any, output: Path, max_length: int | None) -> dict[str, Any]:
    """Make the page; the document for --json, with all its facts."""
    from ....data import page_facts
    from ....report import write_cleaned
    from ...telling.options import OPTIONS

    facts = page_facts(dataset, max_length)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_cleaned(facts, output, OPTIONS.language)
    return facts | {"report": str(output)}


def opened(path: Path, source: Path | None, rules: str) -> Any:
    """The set, its rows judged now where nobody has cleaned them. Raises WrongUse."""
    from ....data import judged_now, open_set, plain_settings
    from ...telling.terminal import Terminal

    with Terminal() as watch, watch.progress("clean", total=None, unit="rows") as bar:
        if is_recipe(path):
            return judged_now(path.name, recipe_settings(path), bar.advance)
        if rules:
            return judged_now(path.name, plain_settings(path, settings_of(rules)), bar.advance)
        if source is not None and is_recipe(source):
            return open_set(path, None, recipe_settings(source), bar.advance)
        return open_set(path, source, None, bar.advance)


def is_recipe(path: Path) -> bool:
    return path.suffix in (".yaml", ".yml") or (path / "steelyard.yaml").is_file()


def recipe_settings(path: Path) -> Mapping[str, Any]:
    """Sources and rules of a recipe. Raises WrongUse where it names no data."""
    from ....run import data_settings
    from ..recipes import load

    recipe = load(path)
    if not recipe.data:
        raise WrongUse(
            "data.no_sources", say("the recipe names no data"), where=Where(str(path), field="data"),
            hint="data: [{path: rows.jsonl, ability: main}]",
        )  # fmt: skip
    return data_settings(recipe)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


# ------------------------------------------------------------------ lines


def row_lines(row: Mapping[str, Any], chars: int) -> Iterator[str]:
    """A row: its name and verdict, what was met in it, its text."""
    from ....data import plain_text, visible

    verdict = say("kept") if row["kept"] else say("dropped: {reasons}", reasons=", ".join(row["reasons"]))
    evidence = ", ".join(f"{name} {value}" for name, value in row["evidence"].items())
    yield visible("   ".join(part for part in (row["id"], row["part"], verdict, evidence) if part))
    yield "  " + visible(" · ".join(met_in(row)))
    text = visible(plain_text(row))
    shown = text if len(text) <= chars else text[:chars] + "…"
    for line in shown.split("\n"):
        yield from ("  | " + piece for piece in broken(line, columns() - 4) or [""])
    yield ""


def met_in(row: Mapping[str, Any]) -> list[str]:
    if "ability" not in row:
        return [row.get("why") or say("its text is not at hand")]
    parts = [row["ability"], row["language"], row["form"], say("about {n} tokens", n=row["tokens"])]
    if row["personal"]:
        parts.append(say("personal data: {kinds}", kinds=counted(row["personal"])))
    for name, text in (("fires", "rules that fire: {kinds}"), ("mended", "mended: {kinds}")):
        if row[name]:
            parts.append(say(text, kinds=", ".join(row[name])))
    fields = ("licence", "license", "consent", "label")
    return parts + [f"{name}: {row[name]}" for name in fields if name in row]


def counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in counts.items())


def diff_lines(told: Mapping[str, Any], a: str, b: str, chars: int) -> Iterator[str]:
    yield say(
        "{rows} rows: {kept} kept by both, {dropped} dropped by both", rows=told["rows"],
        kept=told["both_kept"], dropped=told["both_dropped"],
    )  # fmt: skip
    for side, name, other in (("by_a", a, b), ("by_b", b, a)):
        yield ""
        yield say("{n} rows dropped by {name} alone", n=told[side]["rows"], name=name)
        counts = told[side]["by_reason"]
        yield from table((say("reason"), say("rows")), counts.items()) if counts else []
        for reason, rows in told[side]["samples"].items():
            yield ""
            yield say("{reason}, kept by {name}", reason=reason, name=other)
            for row in rows:
                yield from row_lines(row, chars)
    for name, count in ((a, told["only_in_a"]), (b, told["only_in_b"])):
        if count:
            yield say("{n} rows are in {name} alone", n=count, name=name)
    if told["other_reason"]:
        yield ""
        yield say("dropped by both, for another reason")
        yield from table(
            (a, b, say("rows")), [(one["a"], one["b"], one["rows"]) for one in told["other_reason"]]
        )
