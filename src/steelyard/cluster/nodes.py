"""The cluster that a recipe names, and this machine as a node of it: `ray start`, always with token and TLS.

Not here: what the nodes compute (training), what keys are (trust).
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import Where, WrongUse, no_cluster
from ..model import TRL_QUIET, check_ray, trl_python
from ..trust import address_of, keys_folder, ray_environment

PORT = 6379
STORE_BYTES = 256 * 2**20  # of a node, for objects: files travel in pieces of 16 MiB
REACH_S = 5.0
WORKER = "STEELYARD_NODE_WORKER"  # also in through_ray/ray_child/place.py, which imports nothing of ours


def cluster_address(hosts: Sequence[str], ray: str | None) -> str:
    """ADDRESS:PORT of the head: what `ray` says, else the first host. Raises WrongUse."""
    host, _, port = (hosts[0] if ray is None else ray).partition(":")
    if not host or not (port or str(PORT)).isdecimal() or not 0 < int(port or PORT) < 1 << 16:
        raise WrongUse(
            "cluster.address",
            f"{ray!r} is no address of a head",
            where=Where(field="--ray"),
            hint="ADDRESS or ADDRESS:PORT, 10.0.0.1:6379 for instance",
        )
    return f"{address_of(host)}:{port or PORT}"


def check_reachable(address: str, environment: Mapping[str, str]) -> None:
    """Does the head listen, with a certificate of this CA? Ray itself would wait a minute. Raises Lacking."""
    host, port = address.rsplit(":", 1)
    context = ssl.create_default_context(cafile=environment["RAY_TLS_CA_CERT"])
    context.load_cert_chain(environment["RAY_TLS_SERVER_CERT"], environment["RAY_TLS_SERVER_KEY"])
    context.set_alpn_protocols(["h2"])
    try:
        with socket.create_connection((host, int(port)), timeout=REACH_S) as plain:
            context.wrap_socket(plain, server_hostname=host).close()
    except ssl.SSLCertVerificationError as error:
        raise no_cluster(address, f"its certificate is not of this CA: {error.verify_message}") from error
    except OSError as error:
        raise no_cluster(address, error.strerror or str(error)) from error


def start_node(address: str, head: str | None, cpus: int | None) -> None:
    """Become `ray start` of the environment of trl, in the foreground: Ctrl-C ends this node, and no other.
    Raises Lacking without Ray or keys."""
    check_ray()
    words = [str(trl_python()), *node_words(address, head, cpus)]
    own = TRL_QUIET | ray_environment(keys_folder()) | {WORKER: json.dumps(worker_words())}
    os.execve(trl_python(), words, os.environ | own)


def worker_words() -> list[str]:
    """How a process of this steelyard is started that works for the cluster (node_worker.py)."""
    folder = str(Path(__file__).resolve().parents[2])
    module = "steelyard.cluster.through_ray.node_worker"
    program = f"import sys; sys.path[0] = {folder!r}; from {module} import main; main()"
    return [sys.executable, "-c", program]


def node_words(address: str, head: str | None, cpus: int | None) -> list[str]:
    """The head at ADDRESS[:PORT], or a node there of the cluster with that head."""
    host, _, port = address.partition(":")
    join = ["--address", cluster_address((), head)] if head else ["--head", "--port", port or str(PORT)]
    own = [] if head else ["--include-dashboard", "false"]
    many = [] if cpus is None else ["--num-cpus", str(cpus)]
    common = ["--node-ip-address", address_of(host), "--object-store-memory", str(STORE_BYTES)]
    end = ["--disable-usage-stats", "--block"]
    return ["-m", "ray.scripts.scripts", "start", *join, *own, *many, *common, *end]
