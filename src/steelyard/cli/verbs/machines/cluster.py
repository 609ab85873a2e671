"""cluster: keys for machines that train together, and one of them as a node."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ....errors import Where, WrongUse
from ...telling.acts import written
from ...telling.messages import say
from ...telling.output import result
from ..recipes import no_settings


def cluster(
    action: Annotated[str, typer.Argument(metavar="keys|start", show_default=False)],
    words: Annotated[list[str], typer.Argument(metavar="DIR HOST... | ADDRESS[:PORT]", show_default=False)],
    head: Annotated[
        str | None,
        typer.Option(
            "--head", metavar="ADDRESS[:PORT]", help=say("start: join the cluster of this head; else be one.")
        ),
    ] = None,
    cpus: Annotated[
        int | None,
        typer.Option("--num-cpus", metavar="N", help=say("start: 0 for a machine that does not train.")),
    ] = None,
) -> None:
    no_settings("cluster")
    if action == "keys" and len(words) > 1 and head is None and cpus is None:
        return _keys(Path(words[0]), words[1:])
    if action == "start" and len(words) == 1:
        from ....cluster import start_node

        return start_node(words[0], head, cpus)
    hint = "steelyard cluster keys DIR HOST HOST | steelyard cluster start ADDRESS --head HEAD"
    raise WrongUse(
        "cli.usage", say("cluster makes keys, or starts a node"), where=Where(field="cluster"), hint=hint
    )


def _keys(folder: Path, hosts: list[str]) -> None:
    from ....trust import keys_folder, make_keys

    made = make_keys(folder, hosts)
    written("key.made", kind="cluster", machines=len(made))
    document = {"schema": "steelyard.cluster_keys/1", "folders": [str(path) for path in made]}
    lines = [say("wrote {path}", path=path) for path in made]
    then = say("copy each to that host, as {path}", path=keys_folder())
    result(document, *lines, then, f"{say('next:')} steelyard cluster start {hosts[0]}")
