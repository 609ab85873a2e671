"""refresh: the model is trained again from answers that were rated; what stands goes on where that is no
gain."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ....errors import CheckFailed
from ....units import show_share
from ...telling.messages import say
from ...telling.options import OPTIONS
from ...telling.output import result
from ..recipes import DEFAULT, RecipePath, load
from ..runs import Workdir, _check_key, _check_workdir

# Of a rating that counts for nothing.
REASONS = {
    "above_per_rater": "more than refresh.per_rater of one rater",
    "broken": "no line of JSON",
    "contradiction": "raters contradict each other",
    "no_chat": "no prompt with an answer",
    "no_rating": "neither good nor bad",
    "other_ability": "of an ability that the recipe has not",
    "outvoted": "others say the contrary",
    "rated_again": "rated again by the same rater",
    "teaches_nothing": "bad without a correction",
    "too_old": "older than refresh.keep",
    "unfinished": "its line is still being written",
    "unknown_answer": "of an answer that nobody knows",
}
STATES = {
    "promoted": "the refreshed model serves",
    "canary": "the refreshed model answers copies of requests, and takes the place if that goes well",
    "refused": "what stood goes on serving",
    "too_few": "nothing was trained",
}


def refresh(
    recipe: RecipePath = DEFAULT,
    status: Annotated[
        bool, typer.Option("--status", help=say("What the last refresh came to; nothing is trained."))
    ] = False,
    workdir: Workdir = None,
) -> None:
    files = load(recipe)
    if status:
        from ....run import refreshed

        stands = refreshed(files, workdir=workdir)
        result({"schema": "steelyard.refresh.status/1", **stands}, *_status_lines(stands))
        return
    _check_key(files, recipe)
    _check_workdir(workdir)
    from ....run import refresh
    from ...telling.terminal import Terminal

    with Terminal() as watch:
        done = refresh(files, workdir=workdir, watch=watch, language=OPTIONS.language)
    result({"schema": "steelyard.refresh/1", **done}, *_lines(done))
    if done["state"] == "refused":
        raise typer.Exit(CheckFailed.exit_code)


def _lines(done: dict[str, Any]) -> list[str]:
    """How it ended, why, the account, what the rated prompts came to."""
    lines = [say("{state}, {at}", state=say(STATES[done["state"]]), at=done["at"])]
    if done.get("why"):
        lines.append(say("why: {why}", why=done["why"]))
    counts = done["ratings"]
    lines.append(
        say("{read} ratings = {kept} kept + {dropped} dropped; {rows} rows, {new} of them new",
            read=counts["read"], kept=counts["kept"], dropped=counts["dropped"], rows=done["rows"],
            new=done["new_rows"])
    )  # fmt: skip
    lines += [f"  {count:,} {say(REASONS[reason])}" for reason, count in counts["reasons"].items()]
    return [*lines, *_compared_lines(done.get("compared") or {})]


def _compared_lines(compared: dict[str, Any]) -> list[str]:
    lines = [
        say("{ability}: {change} against what served before, on {rows} rows of the recipe",
            ability=name, change=f"{one['value']:+.1%}".replace("%", " %"), rows=one["rows"])
        for name, one in compared.get("abilities", {}).items()
    ]  # fmt: skip
    rated = compared.get("rated") or {}
    if rated.get("rows"):
        before, after = (show_share(rated[name]) for name in ("before", "after"))
        lines.append(
            say("{rows} rated prompts, answered as raters want: {before} before, {after} now",
                rows=rated["rows"], before=before, after=after)
        )  # fmt: skip
    return lines


def _status_lines(stands: dict[str, Any]) -> list[str]:
    last, looked = stands["last"], stands["looked"]
    lines = _lines(last) if last else [say("nothing has been refreshed yet")]
    if looked and looked != last:
        lines.append(say("looked at {at}: {why}", at=looked["at"], why=looked["why"]))
    if stands["waiting"]:
        lines.append(say("a refresh was stopped: steelyard refresh RECIPE goes on with it"))
    return lines
