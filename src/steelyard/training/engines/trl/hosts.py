"""Several machines, our side: who of a cluster is there, what the driver is told, what its last word means.

They are nodes of a Ray cluster (child/cluster); the machine that trains by them is one. Ray must be in the
environment of trl: steelyard engines install trl --ray.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ....artefact import Watch
from ....errors import Lacking, Problem, Where, no_cluster
from ....model import check_ray, trl_versions
from ....trust import keys_folder, ray_environment
from .processes import CHILD, CHILD_ENV, Processes

WHERE = Where(field="resources.hosts")


def order_for(address: str, hosts: Sequence[str], run: str = "probe") -> dict[str, Any]:
    """What the driver is told beside the job."""
    code, env = str(CHILD), CHILD_ENV
    return {"address": address, "hosts": list(hosts), "run": run, "code": code, "environment": env}


@cache
def hosts_there(address: str, hosts: tuple[str, ...], device: str) -> tuple[tuple[str, int], ...]:
    """(address, processes that it takes) of each host, of all nodes where none are named; this machine first.
    Raises Lacking for a cluster or a host that is not there, or has other packages."""
    check_ray(WHERE)
    rows = _probed(address, hosts, device, ray_environment(keys_folder()))
    for row in rows:
        if row["versions"] != trl_versions():
            raise _other_packages(row["host"], row["versions"])
    return tuple((row["host"], row["places"]) for row in rows)


def _probed(
    address: str, hosts: tuple[str, ...], device: str, environment: dict[str, str]
) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        ray = order_for(address, hosts) | {"probe": True}
        path.write_text(json.dumps({"device": device, "ray": ray}))
        with Processes(path, 1, Path(folder), environment) as process:
            for message in process.messages(Watch()):
                if "failed" in message:
                    raise host_problem(message) or no_cluster(address, f"{message['kind']}, {message['at']}")
                if "hosts" in message:
                    return list(message["hosts"])
    raise no_cluster(address, f"the process that asked it ended with {process.code()}")


# ------------------------------------------------------------------ errors


def host_problem(message: dict[str, Any]) -> Problem | None:
    """The driver's last word as an error of ours; None where it is about something else."""
    kind = message["failed"]
    if kind == "ray":
        return no_cluster(message["address"], message["why"])
    if kind == "host":
        there = ", ".join(message["there"]) or "none that train"
        return Lacking(
            "train.host_missing",
            f"the host {message['host']} is not there",
            where=WHERE,
            why=message["why"] or f"the cluster has {there}",
            hint="there: steelyard cluster start ADDRESS --head HEAD; or leave it out of resources.hosts",
        )
    if kind == "lost":
        return Lacking(
            "train.hosts_lost",
            f"the training lost hosts {message['times']} times without a step between",
            where=WHERE,
            why=f"lost: {', '.join(message['hosts']) or 'their processes were killed'}",
            hint="see to those hosts, then run the same command again: it goes on from the last checkpoint",
        )
    if kind == "sent":
        return Lacking(
            "train.host_disk",
            f"the host {message['host']} gave back other bytes than it was sent",
            where=WHERE,
            hint="see to its disk (free space, faults)",
        )
    return None


def _other_packages(host: str, versions: dict[str, str]) -> Lacking:
    own = trl_versions()
    other = [f"{n} {versions.get(n)}, here {own[n]}" for n in own if versions.get(n) != own[n]]
    return Lacking(
        "train.host_differs",
        f"the host {host} has other packages",
        where=WHERE,
        why="; ".join(other),
        hint="steelyard engines install trl --ray there and here, of one release of steelyard",
    )
