"""Where a passphrase or a PIN comes from: a file that the environment names, or a person who is asked.

Never the command line or the environment itself: both can be read by others, and are inherited. Who asks
people (the command line, without an echo) says so by `asked_by`; a process without anybody asks nobody.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from .errors import Lacking, Refused, Where, WrongUse
from .private_files import OthersMay, open_private

VARIABLE = "STEELYARD_PASSPHRASE_FILE"
MOST_BYTES = 4096

Ask = Callable[[str, bool], str | None]  # what it opens, whether it is a new one; None: nobody is there
_ask: Ask | None = None


def asked_by(ask: Ask | None) -> None:
    """Let `ask` ask people from now on."""
    global _ask
    _ask = ask


def passphrase(what: str, file: Path | None = None, new: bool = False) -> bytes:
    """For `what`, from `file`, the file that the environment names (not for a new one), or a person.

    Raises Lacking where there is neither, WrongUse (empty, unreadable), Refused (others can read the file).
    """
    named = os.environ.get(VARIABLE)
    if file is None and named and not new:
        file = Path(named)
    if file is not None:
        return read_passphrase(file)
    if _ask is not None and (word := _ask(what, new)):
        return word.encode()
    raise Lacking(
        "trust.no_passphrase",
        f"{what} opens with a passphrase, and there is nobody to ask",
        where=Where(field=VARIABLE),
        hint=f"run it on a terminal, or name a file of mode 0600 or a descriptor: {VARIABLE}=/dev/fd/3",
    )


def read_passphrase(path: Path) -> bytes:
    """The first line of a file or a descriptor; a file must be its owner's alone."""
    where = Where(str(path), field=VARIABLE)
    try:
        with open_private(path) as file:
            line = file.readline(MOST_BYTES).rstrip(b"\r\n")
    except OthersMay as e:
        raise Refused(
            "trust.passphrase_mode",
            f"others can read the passphrase's file {path} (mode {e})",
            where=where,
            hint=f"chmod 600 {path}",
        ) from e
    except OSError as e:
        raise WrongUse(
            "trust.passphrase_file", f"cannot read the passphrase's file {path}", where=where, why=e.strerror,
            hint="name a readable file, or a descriptor such as /dev/fd/3",
        ) from e  # fmt: skip
    if not line:
        raise WrongUse(
            "trust.passphrase_file", f"the passphrase's file {path} has no first line", where=where,
            hint="write the passphrase into its first line",
        )  # fmt: skip
    return line
