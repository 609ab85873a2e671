"""cluster: several machines by one command over ssh; or by hand, keys for them and one as a node."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ....errors import Lacking, Where, WrongUse
from ....units import show_s
from ...telling.acts import written
from ...telling.messages import say
from ...telling.output import columns, error_lines, result, table
from ..recipes import no_settings

SCHEMA = "steelyard.cluster/1"
HOSTS = "up|down|status HOSTS.yaml"
HINT = f"steelyard cluster {HOSTS} | keys DIR HOST HOST | start ADDRESS --head HEAD"


def cluster(
    action: Annotated[str, typer.Argument(metavar="up|down|status|keys|start", show_default=False)],
    words: Annotated[
        list[str], typer.Argument(metavar="HOSTS.yaml | DIR HOST... | ADDRESS[:PORT]", show_default=False)
    ],
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
    if action in ("up", "down", "status") and len(words) == 1 and head is None and cpus is None:
        return _hosts(action, Path(words[0]))
    raise WrongUse(
        "cli.usage", say("cluster opens, ends or looks at machines, makes keys, or starts a node"),
        where=Where(field="cluster"), hint=HINT,
    )  # fmt: skip


def _hosts(action: str, path: Path) -> None:
    """The rows on stdout; exit code 5 where a host is not as it was asked to be."""
    from ....cluster import close, open_hosts, read_hosts, states
    from ...telling.terminal import Terminal

    wanted, began_s = read_hosts(path), time.monotonic()
    with Terminal() as watch:
        rows = {"up": open_hosts, "down": close, "status": states}[action](wanted, watch)
    wall_s = time.monotonic() - began_s
    changed = {"up": "up", "down": "stopped"}.get(action)
    if some := [row.host.address for row in rows if row.state == changed]:
        written(f"cluster.{action}", cluster=wanted.name, hosts=len(some))
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "action": action,
        "cluster": wanted.name,
        "head": wanted.head.address,
    }
    document |= {"hosts": [row.document() for row in rows], "wall_s": wall_s}
    result(document, *_lines(rows), *_after(action, wanted, rows, wall_s))
    if any(row.problem or row.state == "left" or (action, row.state) == ("status", "down") for row in rows):
        raise typer.Exit(Lacking.exit_code)


STATES = {
    "up": "up", "already": "up already", "stopped": "ended", "down": "not a node", "failed": "failed",
    "unknown": "no answer", "left": "left out: the head is not up",
}  # fmt: skip


def _lines(rows: Sequence[Any]) -> list[str]:
    """A line a host; then an error each."""
    shown = [
        (row.host.address, say(STATES[row.state]), "; ".join(row.notes) if row.state != "failed" else "")
        for row in rows
    ]
    lines = table((say("host"), "", ""), shown, indent=0, wrap=columns())
    for row in rows:
        if row.problem is not None:
            lines += ["", *error_lines(row.problem)]
    return lines


def _after(action: str, wanted: Any, rows: Sequence[Any], wall_s: float) -> list[str]:
    up = [row for row in rows if row.state in ("up", "already")]
    if action != "up" or not up:
        return []
    head = f"{wanted.head.address}:{wanted.port}"
    text = say("{n} of {all} hosts are up after {time}", n=len(up), all=len(rows), time=show_s(wall_s))
    return ["", text, f"{say('next, on one of them:')} steelyard up recipe.yaml --ray {head}"]


def _keys(folder: Path, hosts: list[str]) -> None:
    from ....trust import keys_folder, make_keys

    made = make_keys(folder, hosts)
    written("key.made", kind="cluster", machines=len(made))
    document = {"schema": "steelyard.cluster_keys/1", "folders": [str(path) for path in made]}
    lines = [say("wrote {path}", path=path) for path in made]
    then = say("copy each to that host, as {path}", path=keys_folder())
    result(document, *lines, then, f"{say('next:')} steelyard cluster start {hosts[0]}")
