"""A Postgres of its own for a test: made, started, killed and started again, on loopback or a Unix socket."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from watching import free_port

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
USER = "nobody"  # it refuses to run as root
SETTINGS = ("log_min_messages=fatal", "max_connections=30", "shared_buffers=16MB", "autovacuum=off")


class Database:
    """Its superuser is `steelyard`, by `a password` over TCP; `tls`: files of its certificate and key."""

    def __init__(self, tls: Sequence[str | Path] = ()) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="steelyard-pg-"))
        self.port = free_port()
        self.binaries = BINARIES[-1].parent
        self.as_user = ["setpriv", f"--reuid={USER}", "--clear-groups"] if os.getuid() == 0 else []
        self.server: subprocess.Popen[bytes] | None = None
        self._make()
        self.tls = [self._own(Path(file)) for file in tls]

    def _make(self) -> None:
        if self.as_user:
            os.chown(self.folder, pwd.getpwnam(USER).pw_uid, -1)
        secret = self.folder / "secret"
        secret.write_text("a password\n")
        secret.chmod(0o644)
        init = ["--no-sync", "-U", "steelyard", f"--pwfile={secret}", "--auth-local=trust"]
        words = [self.binaries / "initdb", "-D", self.folder / "data", "--auth-host=scram-sha-256", *init]
        subprocess.run([*self.as_user, *map(str, words)], check=True, capture_output=True, cwd="/")

    def _own(self, file: Path) -> Path:
        """A copy that only its user reads: it takes no other key."""
        copy = Path(shutil.copy(file, self.folder))
        copy.chmod(0o600)
        if self.as_user:
            os.chown(copy, pwd.getpwnam(USER).pw_uid, -1)
        return copy

    def start(self) -> None:
        options = [*SETTINGS, f"port={self.port}", f"unix_socket_directories={self.folder}"]
        if self.tls:
            options += ["ssl=on", f"ssl_cert_file={self.tls[0]}", f"ssl_key_file={self.tls[1]}"]
        words = [self.binaries / "postgres", "-D", self.folder / "data", "-h", "127.0.0.1"]
        command = [*self.as_user, *map(str, words), *(word for o in options for word in ("-c", o))]
        with (self.folder / "log").open("ab") as log:
            self.server = subprocess.Popen(command, stdout=log, stderr=log, cwd="/")
        ready = [str(self.binaries / "pg_isready"), "-q", "-h", str(self.folder), "-p", str(self.port)]
        while subprocess.run(ready).returncode:
            assert self.server.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        """All its processes, as a machine that loses its power."""
        if self.server is None:
            return
        server = psutil.Process(self.server.pid)
        processes = [server, *server.children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.server.wait()
        psutil.wait_procs(processes)  # while one lives the next server finds its memory in use
        self.server = None

    def stop(self) -> None:
        if self.server is not None:
            self.server.send_signal(signal.SIGINT)
            self.server.wait()
            self.server = None

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def new(self, name: str) -> str:
        """An empty database, and its address on the socket, where nobody needs a password."""
        self.sql(f"CREATE DATABASE {name}")
        return f"postgresql://steelyard@:{self.port}/{name}?host={self.folder}"

    def sql(self, *statements: str, database: str = "postgres") -> list[list[object]]:
        from pg8000.native import Connection

        socket = f"{self.folder}/.s.PGSQL.{self.port}"
        connection = Connection("steelyard", database=database, unix_sock=socket)
        try:
            return [connection.run(statement) for statement in statements][-1]
        finally:
            connection.close()


needs_postgres = pytest.mark.skipif(
    not BINARIES or shutil.which("setpriv") is None, reason="no Postgres here: apt-get install postgresql"
)
