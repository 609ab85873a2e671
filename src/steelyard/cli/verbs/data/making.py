"""data make: documents become rows, and questions and answers by a model that the user names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from ....errors import CheckFailed, Where, WrongUse
from ...asking.flags import flag, switch
from ...telling.messages import say
from ...telling.output import note, result, table
from ..recipes import no_settings

SERVICE = "service"
KEYS = ("OPENAI_API_KEY", "STEELYARD_API_KEY")


@contextmanager
def asked(ask: str | None) -> Iterator[str | None]:
    """The URL of what is asked: one that is named, the service that runs, or one started for this."""
    if ask is None:
        yield None
        return
    from ..services import endpoint

    if ask.startswith(("http://", "https://")):
        yield ask
    else:
        with endpoint(None if ask == SERVICE else ask) as url:
            yield url


def key_of(name: str | None) -> str | None:
    """A key is read from the environment: on a command line others would see it. Raises WrongUse."""
    if name is None:
        return next((os.environ[key] for key in KEYS if os.environ.get(key)), None)
    if not os.environ.get(name):
        raise WrongUse(
            "data.no_key", say("the variable {name} is not set", name=name), where=Where(field="--key-env"),
            hint=f"export {name}=...",
        )  # fmt: skip
    return os.environ[name]


Documents = Annotated[
    list[Path], typer.Argument(metavar="DOCS...", help=say("Documents, or folders of them."))
]
Out = Annotated[Path, flag("--out", "FILE.jsonl", say("Where the passages go."))]
Ask = Annotated[
    str | None,
    flag(
        "--ask", "URL|MODEL|service",
        say("Who makes questions and answers: an OpenAI API, a model, your service."),
    ),
]  # fmt: skip
Model = Annotated[str | None, flag("--model", "NAME", say("At that server; its first."))]
KeyEnv = Annotated[str | None, flag("--key-env", "NAME", say("The variable with its key; OPENAI_API_KEY."))]
Questions = Annotated[
    int, typer.Option("--questions", metavar="N", min=1, max=20, help=say("Of a passage, at most."))
]
Chars = Annotated[
    int, typer.Option("--chars", metavar="N", min=50, max=100_000, help=say("Of a passage, at most."))
]
AtOnce = Annotated[
    int, typer.Option("--at-once", metavar="N", min=1, max=256, help=say("Passages asked at a time."))
]
Ability = Annotated[str | None, flag("--ability", "NAME", say("Of all these rows."))]
Columns = Annotated[str, flag("--map", "text=COLUMN", say("Of tables: the columns with the text."))]
Strict = Annotated[bool, switch("--strict", say("Exit with 4 where something could not be read."))]


def make(
    documents: Documents,
    out: Out,
    ask: Ask = None,
    model: Model = None,
    key_env: KeyEnv = None,
    questions: Questions = 3,
    chars: Chars = 2000,
    at_once: AtOnce = 4,
    ability: Ability = None,
    map: Columns = "",
    strict: Strict = False,
) -> None:
    no_settings("data make")
    from ....data import MakeOrder, make_rows
    from ...asking.first import map_of
    from ...telling.terminal import Terminal

    key = key_of(key_env) if ask or key_env else None
    with asked(ask) as url, Terminal() as watch:
        order = MakeOrder(
            documents=tuple(documents), out=out, ask=url, model=model, key=key, questions=questions,
            chars=chars, at_once=at_once, ability=ability, map=map_of(map),
        )  # fmt: skip
        account = make_rows(order, watch)
    for one in account["unreadable"]:
        note(say("not read: {file}: {why}", file=one["file"], why=one["why"]))
    result(account, *lines_of(account, order.beside("made.jsonl"), out))
    if strict and account["unreadable"]:
        raise typer.Exit(CheckFailed.exit_code)


def lines_of(account: dict[str, Any], made_file: Path, out: Path) -> list[str]:
    """What was cut, what was made of it, and why the rest of that was not kept."""
    first = say("{passages} passages of {documents} documents: {out}", passages=account["passages"],
                documents=account["documents"], out=out)  # fmt: skip
    if "made" not in account:
        return [first]
    made = account["made"]
    second = say("{rows} of {made} made rows stand in their passage: {file}", rows=made["rows"],
                 made=made["made"], file=made_file)  # fmt: skip
    reasons = table((say("reason"), say("rows")), made["by_reason"].items()) if made["by_reason"] else []
    left = made["passages_unanswered"]
    again = [say("{n} passages were not answered; the same command asks again", n=left)] if left else []
    return [first, second, *reasons, *again]
