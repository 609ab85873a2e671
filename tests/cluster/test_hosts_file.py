"""HOSTS.yaml: what is read, and one error with its line for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from steelyard.cluster import Host, read_hosts
from steelyard.cluster.opening.ssh import Runners
from steelyard.errors import Lacking, WrongUse

WHOLE = """\
name: lab
wheels: bundle
port: 7000
hosts:
  - 10.0.0.1
  - {address: 10.0.0.2, ssh: ubuntu@node2, python: /usr/bin/python3.11, cpus: 8, despite: [clock.off]}
  - {address: 10.0.0.3, local: true}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "my-hosts.yaml"
    path.write_text(text)
    return path


def test_each_host_is_read_as_its_file_has_it(tmp_path: Path) -> None:
    cluster = read_hosts(written(tmp_path, WHOLE))
    head, second, third = cluster.hosts
    assert (cluster.name, cluster.port, cluster.wheels) == ("lab", 7000, tmp_path / "bundle")
    assert cluster.head == head and (head.address, head.ssh, head.python) == (
        "10.0.0.1",
        "10.0.0.1",
        "python3",
    )
    assert (second.ssh, second.python, second.cpus, second.despite) == (
        "ubuntu@node2", "/usr/bin/python3.11", 8, ("clock.off",),
    )  # fmt: skip
    assert third.local and third.cpus is None and third.where.line == 7


def test_a_file_of_addresses_alone_is_named_after_itself(tmp_path: Path) -> None:
    cluster = read_hosts(written(tmp_path, "hosts: [10.0.0.1, 10.0.0.2]"))
    assert cluster.name == "my-hosts" and cluster.wheels is None and len(cluster.hosts) == 2


@pytest.mark.parametrize(
    ("text", "line", "field"),
    [
        ("", 1, None),
        ("hosts: [", 1, None),
        ("- 10.0.0.1", 1, None),
        ("hosts: []", 1, "hosts"),
        ("hosts: 10.0.0.1", 1, "hosts"),
        ("name: x\nhost: [10.0.0.1]", 2, "host"),
        ("hosts:\n  - 10.0.0.1\n  - 10.0.0.1", 3, "hosts.1.address"),
        ("hosts:\n  - {address: 10.0.0.1, ssh: a}\n  - {address: 10.0.0.2, ssh: a}", 3, "hosts.1.ssh"),
        ("hosts:\n  - node7", 2, "hosts.0.address"),
        ("hosts:\n  - 'fd00::3'", 2, "hosts.0.address"),
        ("hosts:\n  - {ssh: a}", 2, "hosts.0.address"),
        ("hosts:\n  - 7", 2, "hosts.0"),
        ("hosts:\n  - {address: 10.0.0.1, ssh: '-oProxyCommand=touch x'}", 2, "hosts.0.ssh"),
        ("hosts:\n  - {address: 10.0.0.1, ssh: 'a b'}", 2, "hosts.0.ssh"),
        ("hosts:\n  - {address: 10.0.0.1,\n     cpus: two}", 3, "hosts.0.cpus"),
        ("hosts:\n  - {address: 10.0.0.1, cpus: -1}", 2, "hosts.0.cpus"),
        ("hosts:\n  - {address: 10.0.0.1, cpus: true}", 2, "hosts.0.cpus"),
        ("hosts:\n  - {address: 10.0.0.1, user: me}", 2, "hosts.0.user"),
        ("name: ../x\nhosts: [10.0.0.1]", 1, "name"),
        ("port: 70000\nhosts: [10.0.0.1]", 1, "port"),
        ("hosts: [10.0.0.1]\nhosts: [10.0.0.2]", 2, None),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, line: int, field: str | None) -> None:
    with pytest.raises(WrongUse) as told:
        read_hosts(written(tmp_path, text))
    problem = told.value
    assert problem.code == "cluster.hosts_file" and problem.hint
    assert (problem.where.line, problem.where.field) == (line, field)


@pytest.mark.parametrize("content", [b"hosts: [\xff]", b"\0" * 9, b"x" * 1_000_001, None])
def test_what_is_no_text_is_one_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "hosts.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WrongUse) as told:
        read_hosts(path)
    assert told.value.code == "cluster.hosts_file"


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("exit 0", "exit code 0"),
        ("echo MemoryError >&2; exit 1", "MemoryError"),
        ("exec sleep 60", "not within 1 s"),
        ("printf 'steelyard.there {\"cut'; exit 3", "exit code 3"),
    ],
)
def test_a_host_without_a_last_word_is_one_error(tmp_path: Path, script: str, why: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    host = Host(address="10.0.0.1", ssh="10.0.0.1", python=str(python), local=True)
    with pytest.raises(Lacking) as told:
        Runners().order(host, {"do": "state"}, 1.0)
    assert (told.value.code, told.value.why) == ("cluster.no_answer", why)
