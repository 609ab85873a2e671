"""HOSTS.yaml: the machines of a cluster, and how each is reached.

name: lab                       # else the file's name
wheels: wheels                  # a folder of wheels, or of a bundle: for hosts without steelyard
hosts:
  - 10.0.0.1                    # the first is the head
  - {address: 10.0.0.2, ssh: ubuntu@node2, python: /usr/bin/python3.11, cpus: 8}
  - {address: 10.0.0.3, local: true}      # this machine, without ssh
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import Where, WrongUse

MAX_BYTES, MAX_HOSTS = 1_000_000, 1_000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
TOP = {"name": str, "wheels": str, "port": int, "hosts": list}
OF_HOST = {"address": str, "ssh": str, "python": str, "cpus": int, "local": bool, "despite": list}
KINDS = {str: "text", int: "a whole number", bool: "true or false", list: "a list"}
EXAMPLE = "hosts: [10.0.0.1, {address: 10.0.0.2, ssh: ubuntu@node2}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One machine. `address`: by which the other nodes reach it; `ssh`: by which ssh does."""

    address: str
    ssh: str
    python: str = "python3"
    cpus: int | None = None  # None: all of them
    local: bool = False
    despite: tuple[str, ...] = ()  # findings of the doctor that do not keep it out
    where: Where = field(default=Where(), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosts:
    """A cluster as its file has it; the first host is the head."""

    name: str
    hosts: tuple[Host, ...]
    wheels: Path | None = None
    port: int = 6379

    @property
    def head(self) -> Host:
        """The machine that the others join."""
        return self.hosts[0]


def read_hosts(path: Path) -> Hosts:
    """The checked file. Raises WrongUse with the line of what is wrong."""
    document = _parsed(path)
    _known(document, TOP, path, "")
    rows = document.get("hosts") or ()
    if not 0 < len(rows) <= MAX_HOSTS:
        raise _wrong(path, _line(document, "hosts"), "hosts", f"{len(rows)} hosts: 1 to {MAX_HOSTS}")
    hosts = tuple(_host(row, path, _line(rows, at), f"hosts.{at}") for at, row in enumerate(rows))
    for name in ("address", "ssh"):
        taken: dict[str, int] = {}
        for at, host in enumerate(hosts):
            if (value := getattr(host, name)) in taken and not (name == "ssh" and host.local):
                text = f"{value} stands twice: hosts.{taken[value]} and hosts.{at}"
                raise _wrong(path, _line(rows, at), f"hosts.{at}.{name}", text)
            taken[value] = at
    name = str(document.get("name", path.stem))
    if not NAME.fullmatch(name):
        text = f"{name!r} is no name: letters, digits, . _ and -"
        raise _wrong(path, _line(document, "name"), "name", text)
    if not 0 < (port := int(document.get("port", 6379))) < 65536:
        raise _wrong(path, _line(document, "port"), "port", f"{port} is no port")
    wheels = path.parent / document["wheels"] if "wheels" in document else None
    return Hosts(name=name, hosts=hosts, wheels=wheels, port=port)


def _parsed(path: Path) -> dict[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _wrong(path, None, None, f"{path} cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise _wrong(path, None, None, f"{path} has more than {MAX_BYTES:,} bytes")
    try:
        document = YAML(typ="rt", pure=True).load(data.decode("utf-8"))
    except (YAMLError, ValueError) as error:  # ValueError: no UTF-8, a number that is none
        mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
        text = f"{path} is no YAML: {getattr(error, 'problem', None) or error}"
        raise _wrong(path, mark.line + 1 if mark else None, None, text) from error
    if not isinstance(document, dict):
        raise _wrong(path, 1, None, f"{path} has no table of hosts")
    return document


def _host(row: Any, path: Path, line: int | None, at: str) -> Host:
    words = {"address": row} if isinstance(row, str) else row
    if not isinstance(words, dict):
        raise _wrong(path, line, at, f"{row!r} is no host")
    _known(words, OF_HOST, path, f"{at}.")
    address = words.get("address", "")
    try:
        ipaddress.IPv4Address(address)
    except ValueError as error:
        text = f"{address!r} is no IPv4 address: nodes know each other by numbers, as 10.0.0.2"
        raise _wrong(path, line, f"{at}.address", text) from error
    ssh = str(words.get("ssh", address))
    if not ssh or ssh.startswith("-") or any(char.isspace() or not char.isprintable() for char in ssh):
        raise _wrong(path, line, f"{at}.ssh", f"{ssh!r} is no host of ssh")
    if (cpus := words.get("cpus")) is not None and not 0 <= cpus <= 100_000:
        raise _wrong(path, line, f"{at}.cpus", f"{cpus} CPUs: 0 for a machine that does not train")
    if not (python := str(words.get("python", "python3"))) or not python.isprintable():
        raise _wrong(path, line, f"{at}.python", f"{python!r} is no path of Python")
    return Host(
        address=str(address), ssh=ssh, python=python, cpus=cpus,
        local=bool(words.get("local", False)), despite=tuple(map(str, words.get("despite", ()))),
        where=Where(str(path), line, at),
    )  # fmt: skip


def _known(words: Mapping[Any, Any], kinds: Mapping[str, type], path: Path, at: str) -> None:
    """Only words that there are, each of its kind."""
    for name, value in words.items():
        if name not in kinds:
            text = f"there is no {name!r} here: {', '.join(kinds)}"
            raise _wrong(path, _line(words, name), f"{at}{name}", text)
        kind = kinds[name]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise _wrong(path, _line(words, name), f"{at}{name}", f"{value!r} is not {KINDS[kind]}")


def _line(node: Any, key: Any) -> int | None:
    """Of a value in a table or list of ruamel, counted from 1."""
    try:
        place = node.lc.data[key]
        return int(place[0]) + 1
    except (AttributeError, KeyError, TypeError, IndexError):
        return None


def _wrong(path: Path, line: int | None, at: str | None, text: str) -> WrongUse:
    return WrongUse("cluster.hosts_file", text, where=Where(str(path), line, at), hint=EXAMPLE)
