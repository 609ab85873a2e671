"""Rows that are erased while a run goes on: nothing stays that was made of them.

An erasure puts its rows on the list before all else. A run looks at the list before each step that follows
its cleaning, and before it publishes; where rows of its data set have come onto it, all that it has made of
that set goes, and the run begins anew, without them.
"""

from __future__ import annotations

from contextlib import suppress

from ...artefact import Artefact
from ...errors import Problem
from ..record.cleaning import cleaning
from ..record.delete import gone
from ..record.lineage import descendants
from .make import by_children
from .run import Run
from .step import Again, Step


class ErasedMeanwhile(Exception):
    """Rows that this run had read were erased. It must begin anew; what it had made of them is gone."""


def cleaned(run: Run, step: Step) -> Again:
    """The data set; an erasure that comes meanwhile waits for it, and may take a source from under it."""
    from ...data import suppressed

    with cleaning(run.ready.workdir.folder):
        before = suppressed().digest
        try:
            return by_children(run, step)
        except Problem as problem:
            if suppressed().digest != before:
                raise ErasedMeanwhile from problem
            raise


def check_erased(run: Run) -> None:
    """Raises ErasedMeanwhile."""
    dataset = run.artefacts.get("dataset")
    if dataset is None:
        return
    from ...data import standing, suppressed  # numpy and more, which looking at a recipe does without

    if (erased := suppressed()).digest == run.erased:
        return
    if rows := standing(dataset.path(), erased):
        run.watch.log("run.rows_erased", rows=len(rows), hint="the run begins anew, without them")
        drop_made_of(run, dataset)
        raise ErasedMeanwhile
    run.erased = erased.digest


def drop_made_of(run: Run, dataset: Artefact) -> None:
    """The data set and what this run has made of it, or begun to make. Raises Lacking where it stays."""
    run.candidates.close()
    begun = [run.store.folder / name for name in run.used if name.startswith(".")]
    for folder in [*begun, *(a.folder for a in reversed(made_of(run, dataset)))]:
        if folder.exists():
            gone(folder)
        run.used.discard(folder.name)


def made_of(run: Run, dataset: Artefact) -> list[Artefact]:
    """What others are made of, first."""
    used = []
    for name in sorted(name for name in run.used if not name.startswith(".")):
        with suppress(Problem, OSError):
            used.append(run.store.open(run.store.folder / name))
    return [dataset, *descendants([dataset.hash], used)]
