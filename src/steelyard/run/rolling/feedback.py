"""The folder of rated answers, looked at and read: which files, and every line of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from ...data import UNFINISHED, Fault, Line, Rules, Weighed, ratings_of, suppressed, weigh
from ...errors import Where, WrongUse
from ...recipe import TEACHES, Recipe
from ...trust import is_sealed, read_log
from ..record.workdir import Workdir

SUFFIXES = (".jsonl", ".ndjson")
MOST_BYTES = 1 << 30  # of all files: a rating is some kilobytes, and all are held at once


def feedback_folder(recipe: Recipe) -> Path:
    """Raises WrongUse where the recipe asks for no refresh, or its folder is none."""
    if recipe.refresh is None:
        raise WrongUse(
            "refresh.not_asked", "this recipe asks for no refresh",
            where=Where(str(recipe.path), field="refresh"),
            hint="example: refresh: {feedback: ratings}",
        )  # fmt: skip
    folder = recipe.root / Path(recipe.refresh.feedback).expanduser()
    if not folder.is_dir():
        raise WrongUse(
            "refresh.no_folder", f"there is no folder {folder}",
            where=Where(str(recipe.path), field="refresh.feedback"),
            why="it is a file" if folder.exists() else "paths are taken from the recipe's folder",
            hint=f"mkdir {folder}; docs/how-to/refresh.md says what its lines are",
        )  # fmt: skip
    return folder


def weighed_here(recipe: Recipe, place: Workdir) -> Weighed:
    """The ratings of the folder, weighed. Raises WrongUse for a line that is no rating."""
    assert recipe.refresh is not None
    ratings, faults = ratings_of(lines_in(feedback_folder(recipe), place))
    if recipe.clean.unreadable == "stop":
        check_lines(faults)
    rules = Rules(
        per_rater=recipe.refresh.per_rater,
        abilities=recipe.abilities,
        teaches=frozenset(TEACHES[stage.stage] for stage in recipe.train),
        now_s=time.time(),
        keep_s=recipe.refresh.keep_s,
    )
    weighed, erased = weigh(ratings, faults, rules), suppressed()
    rows = tuple(row for row in weighed.rows if not erased.holds(row.hash))
    return Weighed(rows=rows, account=weighed.account | {"rows_erased": len(weighed.rows) - len(rows)})


def check_lines(faults: list[Fault]) -> None:
    """A line that is still being written is left for the next time."""
    wrong = next((fault for fault in faults if fault.kind != UNFINISHED), None)
    if wrong is not None:
        raise WrongUse(
            "refresh.bad_line", f"line {wrong.line.number} of {wrong.line.file} is no rating",
            where=Where(wrong.line.file, wrong.line.number), why=wrong.why,
            hint="mend or delete the line, or set `clean: {unreadable: drop}`: such lines are counted then",
        )  # fmt: skip


def lines_in(folder: Path, place: Workdir) -> Iterator[Line]:
    """Every line of every file, in the order of their names. Raises WrongUse."""
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())
    size = sum(path.stat().st_size for path in files)
    if size > MOST_BYTES:
        raise WrongUse(
            "refresh.too_much", f"{folder} holds {size >> 20} MiB of ratings, {MOST_BYTES >> 20} are read",
            where=Where(str(folder)), hint="move old files away; refresh: {keep: 90d} names what counts",
        )  # fmt: skip
    for path in files:
        yield from (sealed_lines if is_sealed(path) else plain_lines)(path, place)


def plain_lines(path: Path, place: Workdir) -> Iterator[Line]:
    with open(path, "rb") as file:
        for number, text in enumerate(file, 1):
            yield Line(file=path.name, number=number, text=text, whole=text.endswith(b"\n"))


def sealed_lines(path: Path, place: Workdir) -> Iterator[Line]:
    """What a service has written at `guarded`."""
    if place.keys is None:
        raise WrongUse(
            "refresh.sealed", f"{path.name} is sealed, and trust is open", where=Where(str(path)),
            hint="trust: guarded, with the key that it was sealed for; or move the file away",
        )  # fmt: skip
    for number, text in enumerate(read_log(path, place.keys), 1):
        yield Line(file=path.name, number=number, text=text)
