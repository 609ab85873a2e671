"""Where the database of `--accounts` is, how it is spoken to, by which password: never one in an address.

The password comes from a file that is its owner's alone, from PGPASSWORD, or from the file of libpq
(PGPASSFILE, ~/.pgpass). On the way to another machine TLS is a must, and the server's name is checked.
"""

from __future__ import annotations

import getpass
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from ....errors import Refused, Where, WrongUse
from ....private_files import OthersMay, open_private
from ..access import is_loopback

SCHEMES = ("postgresql", "postgres")
FIELD = "--accounts"
HINT = "postgresql://USER@HOST:5432/DATABASE, or postgresql://USER@/DATABASE?host=/run/postgresql"
SURE = "verify-full"  # the one way to another machine
PLAIN = ("disable", "prefer", "allow")
PARAMETERS = {"sslmode", "sslrootcert", "sslcert", "sslkey", "host"}
MOST_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresAddress:
    """Of one database. `socket`: the folder of its Unix socket, in place of a host."""

    host: str
    port: int
    user: str
    database: str
    socket: str | None = None
    root_cert: str | None = None
    own_cert: tuple[str, str] | None = field(default=None, repr=False)
    tls: bool = True
    password_file: str | None = None

    @property
    def place(self) -> str:
        return f"postgresql://{self.socket or self.host}:{self.port}/{self.database}"

    def context(self) -> ssl.SSLContext | None:
        """What speaks TLS to it, and checks its name; None: plain. Raises WrongUse for unreadable files."""
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.root_cert)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.own_cert:
                context.load_cert_chain(*self.own_cert)
        except OSError as e:
            raise WrongUse(
                "serve.accounts_tls", "the certificates of the accounts' database cannot be read",
                where=Where(field=FIELD), why=e.strerror or str(e), hint="sslrootcert=FILE: of who signed it",
            ) from e  # fmt: skip
        return context

    def password(self, environment: Mapping[str, str] = os.environ) -> str | None:
        """None: none is needed, as far as is known. Raises WrongUse, Refused (others can read the file)."""
        if self.password_file:
            lines = _lines(Path(self.password_file), must=True)
            return lines[0] if lines else None
        if given := environment.get("PGPASSWORD"):
            return given
        file = environment.get("PGPASSFILE")
        lines = _lines(Path(file or "~/.pgpass").expanduser(), must=bool(file))
        asked = ((self.socket and "localhost") or self.host, str(self.port), self.database, self.user)
        return next((found for line in lines if (found := _of_line(line, asked)) is not None), None)


def read_address(url: str, password_file: str | None = None) -> PostgresAddress:
    """Raises WrongUse (never with a secret in its words), Refused where the way would not be safe."""
    try:
        parts = urlsplit(url)
        port = parts.port or 5432
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise _wrong("it is no address of a database") from None  # its words may hold a password
    given = dict(pairs)
    if parts.password is not None or "password" in given:
        raise _wrong(
            "the address holds a password", why="command lines can be read by others",
            hint="--accounts-password FILE, PGPASSWORD, or ~/.pgpass",
        )  # fmt: skip
    if parts.scheme not in SCHEMES or parts.fragment or len(given) < len(pairs):
        raise _wrong("it is no address of a database")
    if strange := set(given) - PARAMETERS:
        raise _wrong(f"{min(strange)} is not known", hint=f"one of {', '.join(sorted(PARAMETERS))}")
    database = unquote(parts.path.lstrip("/"))
    if not database or "/" in database:
        raise _wrong("it names no database")
    socket, host = _place(parts.hostname, given.get("host"))
    own = (given["sslcert"], given["sslkey"]) if given.keys() >= {"sslcert", "sslkey"} else None
    user = unquote(parts.username) if parts.username else _own_name()
    return PostgresAddress(
        host=host, port=port, user=user, database=database,
        socket=socket, root_cert=given.get("sslrootcert"), own_cert=own, password_file=password_file,
        tls=_tls(given.get("sslmode"), host, socket),
    )  # fmt: skip


def _own_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError) as e:  # a container's user without a name
        raise _wrong("it names no user, and the user of this process has no name") from e


def _place(named: str | None, given: str | None) -> tuple[str | None, str]:
    """Folder of the socket, and the host."""
    if given and given.startswith("/") and not named:
        return given, "localhost"
    host = named or given
    if not host or (named and given) or "," in host:
        raise _wrong("it names no one host")
    return None, host


def _tls(mode: str | None, host: str, socket: str | None) -> bool:
    here = socket is not None or is_loopback(host)
    if not here and mode not in (None, SURE):
        raise Refused(
            "serve.accounts_tls", f"sslmode={mode} does not protect the way to {host}",
            where=Where(field=FIELD), why="who is on the way could read and change what keys have used",
            hint=f"sslmode={SURE}, which is usual, and sslrootcert=FILE where no public authority has signed",
        )  # fmt: skip
    if mode not in (None, SURE, *PLAIN):
        raise _wrong(f"sslmode={mode} is not known", hint=f"{SURE}, or disable on this machine")
    return socket is None and (mode == SURE or not here)


def _wrong(what: str, why: str | None = None, hint: str = HINT) -> WrongUse:
    return WrongUse("serve.accounts", what, where=Where(field=FIELD), why=why, hint=hint)


def _lines(file: Path, must: bool) -> list[str]:
    where = Where(str(file), field="--accounts-password")
    try:
        with open_private(file) as opened:
            return opened.read(MOST_BYTES * 16).decode().splitlines()
    except OthersMay as e:
        raise Refused(
            "serve.accounts_password", f"others can read the password's file {file} (mode {e})",
            where=where, hint=f"chmod 600 {file}",
        ) from e  # fmt: skip
    except (OSError, UnicodeDecodeError) as e:
        if not must and isinstance(e, OSError):
            return []
        raise WrongUse(
            "serve.accounts_password", f"cannot read the password's file {file}", where=where,
            why=getattr(e, "strerror", None) or "it is no text", hint="a file of mode 0600 of this user's",
        ) from e  # fmt: skip


def _of_line(line: str, asked: tuple[str, ...]) -> str | None:
    """The password of a line HOST:PORT:DATABASE:USER:PASSWORD that fits, as libpq reads it."""
    if line.startswith("#"):
        return None
    fields, word, escaped = list[str](), "", False
    for sign in line:
        if escaped or sign not in "\\:" or (sign == ":" and len(fields) == len(asked)):
            word, escaped = word + sign, False
        elif sign == "\\":
            escaped = True
        else:
            fields, word = [*fields, word], ""
    fits = len(fields) == len(asked) and all(f in ("*", a) for f, a in zip(fields, asked, strict=True))
    return word if fits else None
