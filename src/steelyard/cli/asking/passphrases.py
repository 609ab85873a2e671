"""A passphrase or a PIN, asked on the terminal without an echo; a new one twice."""

from __future__ import annotations

import sys

from ...errors import Where, WrongUse
from ..telling.messages import say


def ask_passphrase(what: str, new: bool) -> str | None:
    """None where there is no terminal. Raises WrongUse where a new one was typed in two ways."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    import getpass

    prompt = say("new passphrase of {what}: ", what=what) if new else say("passphrase of {what}: ", what=what)
    word = getpass.getpass(prompt)
    if new and getpass.getpass(say("once more: ")) != word:
        raise WrongUse(
            "trust.passphrase_differs",
            "the two passphrases differ",
            where=Where(field="passphrase"),
            hint="nothing was changed: run the same command again",
        )
    return word
