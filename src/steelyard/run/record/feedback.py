"""The folder of rated answers, looked at and read: which files, and every line of them."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from itertools import chain
from pathlib import Path

import orjson

from ...data import (
    UNFINISHED,
    Fault,
    Line,
    Rules,
    Weighed,
    ratings_of,
    suppressed,
    taught_hashes,
    weigh,
)
from ...errors import Where, WrongUse
from ...recipe import TEACHES, Recipe
from ...serving import ratings_stored
from .workdir import Workdir

SERVICE = "the service"  # whose clients rate by its API
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
    folder = feedback_folder(recipe)
    ratings, faults = ratings_of(chain(lines_in(folder), lines_stored(recipe, place)))
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
    """A line that is still being written is left for the next time; nobody can mend what clients said."""
    own = (fault for fault in faults if fault.line.file != SERVICE)
    wrong = next((fault for fault in own if fault.kind != UNFINISHED), None)
    if wrong is not None:
        raise WrongUse(
            "refresh.bad_line", f"line {wrong.line.number} of {wrong.line.file} is no rating",
            where=Where(wrong.line.file, wrong.line.number), why=wrong.why,
            hint="mend or delete the line, or set `clean: {unreadable: drop}`: such lines are counted then",
        )  # fmt: skip


def lines_in(folder: Path) -> Iterator[Line]:
    """Every line of every file, in the order of their names. Raises WrongUse."""
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())
    size = sum(path.stat().st_size for path in files)
    if size > MOST_BYTES:
        raise WrongUse(
            "refresh.too_much", f"{folder} holds {size >> 20} MiB of ratings, {MOST_BYTES >> 20} are read",
            where=Where(str(folder)), hint="move old files away; refresh: {keep: 90d} names what counts",
        )  # fmt: skip
    for path in files:
        yield from plain_lines(path)


def lines_stored(recipe: Recipe, place: Workdir) -> Iterator[Line]:
    """What clients have told the service of this recipe."""
    stored = ratings_stored(recipe.serve.served_model_name, place.keys)
    for number, one in enumerate(stored, 1):
        yield Line(file=SERVICE, number=number, text=orjson.dumps(one))


def plain_lines(path: Path) -> Iterator[Line]:
    with open(path, "rb") as file:
        for number, text in enumerate(file, 1):
            yield Line(file=path.name, number=number, text=text, whole=text.endswith(b"\n"))


def standing_in_ratings(recipe: Recipe, hashes: Collection[str]) -> Iterator[tuple[str, int]]:
    """(file, line) of the ratings in the folder that teach a row with one of these hashes."""
    folder = feedback_folder(recipe)
    ratings, _ = ratings_of(lines_in(folder))
    for rating in ratings:
        if taught_hashes(rating) & set(hashes):
            name, _, number = rating.place.rpartition(":")
            yield str(folder / name), int(number)
