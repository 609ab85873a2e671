"""A real sshd on loopback with keys of its own, for tests of what goes by ssh; it ends with the test."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
NEEDS_SSHD = pytest.mark.skipif(
    not (SSHD and shutil.which("ssh")), reason="sshd is not installed: apt install openssh-server"
)


@contextmanager
def local_sshd(folder: Path, more: Mapping[str, Mapping[str, str]] | None = None) -> Iterator[Path]:
    """The folder, whose bin/ssh is the real one with a config of its own: hosts one, two, denied, unknown,
    changed, closed. `more`: {host that lets in: its environment}."""
    for name in ("host", "mine", "other"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(words, check=True)
    port, closed = free_port(), free_port()
    _server(folder, port)
    hosts = {
        "one two": ("mine", "known", port),
        "denied": ("other", "known", port),
        "unknown": ("mine", "empty", port),
        "changed": ("mine", "stale", port),
        "closed": ("mine", "known", closed),
    }
    _client(folder, hosts | dict.fromkeys(more or {}, ("mine", "known", port)), more or {})
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's privilege separation
    words = [str(SSHD), "-D", "-e", "-f", str(folder / "sshd_config")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, stderr=log)
    try:
        if not listens(port, process):
            pytest.skip(f"sshd does not start here: {(folder / 'log').read_text()[-200:]}")
        yield folder
    finally:
        process.terminate()
        process.wait(10)


def _server(folder: Path, port: int) -> None:
    shutil.copy(folder / "mine.pub", folder / "authorized")
    host_key, other = ((folder / f"{name}.pub").read_text().split()[:2] for name in ("host", "other"))
    (folder / "known").write_text(f"[127.0.0.1]:{port} {' '.join(host_key)}\n")
    (folder / "stale").write_text(f"[127.0.0.1]:{port} {' '.join(other)}\n")
    (folder / "empty").write_text("")
    (folder / "sshd_config").write_text(f"""Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized
PidFile {folder}/pid
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
AcceptEnv STEELYARD_* PYTHON* STANDIN
MaxStartups 100
""")


def _client(
    folder: Path, hosts: Mapping[str, tuple[str, str, int]], more: Mapping[str, Mapping[str, str]]
) -> None:
    blocks = []
    for names, (key, known, at) in hosts.items():
        own = " ".join(f'"{name}={value}"' for name, value in more.get(names, {}).items())
        blocks.append(
            f"Host {names}\n  HostName 127.0.0.1\n  Port {at}\n  User {getpass.getuser()}\n"
            f"  IdentityFile {folder}/{key}\n  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/{known}\n"
            f"  GlobalKnownHostsFile /dev/null\n" + (f"  SetEnv {own}\n" if own else "")
        )
    (folder / "ssh_config").write_text("\n".join(blocks))
    (folder / "bin").mkdir()
    (folder / "bin/ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh_config "$@"\n')
    (folder / "bin/ssh").chmod(0o755)


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def listens(port: int, process: subprocess.Popen[bytes]) -> bool:
    """Once it does; False where it ends before."""
    for _ in range(200):
        if process.poll() is not None:
            return False
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.1)
    return False
