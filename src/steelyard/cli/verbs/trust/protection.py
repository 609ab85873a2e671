"""trust explain: what protects each hop of a run, and what does not."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ...telling.messages import say
from ...telling.output import result, table
from ..recipes import DEFAULT, RecipePath, load


def explain(
    recipe: RecipePath = DEFAULT,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help=say("As `up --rehearse` would run it; SIMULATED."))
    ] = False,
) -> None:
    from ....run import explain as explained
    from ....run import refusal, rehearsed

    read: Any = load(recipe)
    refused = None if rehearse else refusal(read)
    shown = rehearsed(read) if read.trust.level == "sealed" or rehearse else read
    hops = explained(shown)
    document = {
        "schema": "steelyard.trust/1", "level": read.trust.level, "simulated": shown is not read,
        "refused": refused, "hops": [one.as_json() for one in hops],
    }  # fmt: skip
    result(document, *_lines(read.trust.level, refused, shown is not read, hops))


def _lines(level: str, refused: str | None, simulated: bool, hops: Any) -> list[str]:
    head = [f"trust: {level}"]
    if refused:
        head += [say("refused on this machine (exit code 3): {why}", why=refused)]
    if simulated:
        head += [say("below: what a rehearsal does (up --rehearse), SIMULATED")]
    rows = [
        (say(one.hop), say(one.what), say(MARKS[one.protected]), say(one.by) if one.by else "",
         say(one.left) if one.left else "")
        for one in hops
    ]  # fmt: skip
    columns = (say("hop"), say("what lies there"), say("safe"), say("what protects it"), say("what does not"))
    return [*head, *table(columns, rows)]


MARKS = {True: "yes", False: "no", None: "–"}
