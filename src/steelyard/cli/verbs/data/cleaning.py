"""clean: the data room alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ....errors import CheckFailed, Where, WrongUse
from ....units import show_bytes
from ...asking.flags import flag, switch
from ...telling.messages import say
from ...telling.output import note, result, table
from ..recipes import no_settings
from .rules import DEDUP, PII, word_of, words_of

if TYPE_CHECKING:
    from ....artefact import Watch

Input = Annotated[Path, flag("--input", "FILE|DIR|URL", say("What to clean."))]
Output = Annotated[Path, flag("--output", "DIR|URL", say("Where the kept rows go."))]
Report = Annotated[Path | None, flag("--report", "FILE", say("The account; DIR/report.json."))]
Contamination = Annotated[
    Path | None, flag("--contamination", "FILE", say("Questions that no row may hold."))
]
Columns = Annotated[
    str, flag("--map", "WORD=COLUMN,...", say("Columns: user=COLUMN[+COLUMN],assistant=COLUMN."))
]
Personal = Annotated[
    str | None, flag("--pii", "|".join(PII), say("Personal data: replaced, only counted, or left alone."))
]
Workers = Annotated[int, typer.Option("--workers", metavar="N", min=1, help=say("Processes."))]
Ray = Annotated[
    str | None, flag("--ray", "ADDRESS", say("Rows are judged by the nodes of the cluster with this head."))
]
Dedup = Annotated[
    str, flag("--dedup", "|".join(DEDUP), say("Rows that occur twice; near: texts that share half."))
]
Languages = Annotated[str, flag("--languages", "en,zh,...", say("Of plain texts that stay."))]
Off = Annotated[str, flag("--off", "KIND,...", say("Rules that do nothing."))]
Only = Annotated[
    str, flag("--only", "KIND,...", say("These rules alone; personal data is left alone without --pii."))
]
Tagger = Annotated[Path | None, flag("--pii-model", "DIR", say("A token classifier: names in prose, too."))]
Licences = Annotated[str, flag("--licences", "NAME,...", say("Rows under another are dropped."))]
Consent = Annotated[bool, switch("--consent", say("Rows that do not say that it was given are dropped."))]
DryRun = Annotated[bool, switch("--dry-run", say("The report and what would be dropped, no rows."))]
Strict = Annotated[bool, switch("--strict", say("Exit with 4 where something could not be read."))]
Page = Annotated[Path | None, flag("--page", "FILE", say("A page with samples of each reason, as HTML."))]


def clean(
    input: Input,
    output: Output,
    report: Report = None,
    contamination: Contamination = None,
    map: Columns = "",
    pii: Personal = None,
    workers: Workers = 1,
    dedup: Dedup = "near",
    languages: Languages = "",
    off: Off = "",
    only: Only = "",
    pii_model: Tagger = None,
    licences: Licences = "",
    consent: Consent = False,
    dry_run: DryRun = False,
    strict: Strict = False,
    page: Page = None,
    ray: Ray = None,
) -> None:
    no_settings("clean")
    from ....data import clean_files, url_of
    from ...asking.first import map_of  # the room of recipes is more than `--help` needs
    from ...telling.terminal import Terminal

    settings = rules_of(off, only, pii) | asked_of_rows(dedup, languages, pii_model, licences, consent)
    columns = map_of(map)
    if page is not None and url_of(output):
        raise no_pair("--page", f"--output {output}")
    with Terminal() as watch:
        account = clean_files(
            input, output, report=report, contamination=contamination, workers=workers, settings=settings,
            map=columns, watch=watch, dry_run=dry_run, others=nodes_of(ray, pii_model, watch),
        )  # fmt: skip
    if page is not None:
        from ....data import open_set
        from .looks import write_page

        write_page(open_set(output, source=None if columns else input), page, None)
    tell(account)
    if strict and account["unreadable"]:
        raise typer.Exit(CheckFailed.exit_code)


def asked_of_rows(
    dedup: str, languages: str, pii_model: Path | None, licences: str, consent: bool
) -> dict[str, Any]:
    """What the other flags ask, in the words of a recipe's `clean`."""
    from ....data import LANGUAGES

    return {
        "dedup": word_of(dedup, DEDUP, "--dedup", "near"),
        "languages": words_of(languages, LANGUAGES, "--languages"),
        "pii_model": str(pii_model) if pii_model else None,
        "licences": tuple(name.strip() for name in licences.split(",") if name.strip()),
        "consent": "required" if consent else None,
    }


def nodes_of(ray: str | None, pii_model: Path | None, watch: Watch) -> Any:
    """The nodes of a cluster, where one is named. Raises WrongUse."""
    if ray is None:
        return None
    if pii_model is not None:
        raise no_pair("--pii-model", "--ray")
    from ....cluster import on_nodes

    return on_nodes(ray, "data:clean_files", watch)


def no_pair(flag: str, other: str) -> WrongUse:
    return WrongUse(
        "cli.usage", say("{flag} does not go with {other}", flag=flag, other=other),
        where=Where(field=flag), hint=say("leave {flag} out", flag=flag),
    )  # fmt: skip


def rules_of(off: str, only: str, pii: str | None) -> dict[str, Any]:
    """Which rules do nothing, and what becomes of personal data."""
    from ....data import KINDS

    left_out = words_of(off, KINDS, "--off")
    if only:
        others = {*KINDS} - {*words_of(only, KINDS, "--only")}
        left_out = tuple(sorted(others | {*left_out}))
    return {"off": left_out, "pii": word_of(pii or ("off" if only else "mask"), PII, "--pii", "report")}


def tell(account: dict[str, Any]) -> None:
    """The account as lines: how many stay, why the others do not, what was left as it is or not read."""
    headline = say("{kept} of {rows} rows kept, {dropped} dropped", kept=account["kept"], rows=account["in"],
                   dropped=account["dropped"])  # fmt: skip
    reasons = (
        table((say("reason"), say("rows")), account["by_reason"].items()) if account["by_reason"] else []
    )
    if not account["masked"] and account["personal"]:
        counts = ", ".join(f"{n} {kind}" for kind, n in account["personal"].items())
        note(say("note: personal data is left as it is: {counts}", counts=counts))
    for name, why in account["faults"].items():
        note(say("not read: {file}: {why}", file=name, why=why))
    speed = f"{show_bytes(account['bytes_in'])}, {account['mb_per_s']:.1f} MB/s"
    result({"schema": "steelyard.clean/1"} | account, headline, *reasons, speed)
