"""The one place that turns whatever happens into an exit code and a message."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ..errors import Problem, Stopped, WrongUse, from_os_error, no_memory, trace_of
from ..passphrase import asked_by
from ..places import state_folder
from ..processes import lacks_memory
from .asking.passphrases import ask_passphrase
from .telling import options
from .telling.messages import say
from .telling.output import failure, note

CTRL_C = 130  # what Typer makes of Ctrl-C within a verb


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command line and leave with its exit code (contract: 0 to 6)."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """The exit code of one command line; its messages are printed."""
    asked_by(ask_passphrase)
    try:
        return _verb(options.read(arguments))
    except Problem as problem:
        failure(problem)
        return problem.exit_code
    except KeyboardInterrupt:
        hint = say("run the same command again: it goes on from the last safe point")
        failure(Stopped("run.interrupted", say("interrupted"), hint=hint))
        return Stopped.exit_code
    except Exception as error:
        return _failed(error)


def _verb(arguments: list[str]) -> int:
    """Hand the verb to Typer; its own faults get the shape of ours."""
    from typer.exceptions import TyperException

    from .app import make

    try:
        code = make(arguments)(arguments or ["--help"], standalone_mode=False, prog_name="steelyard")
    except TyperException as error:
        raise _usage(error, arguments) from error
    except Exception as error:
        if type(error).__name__ == "Abort":  # a question that Ctrl-C or the end of input answered
            raise KeyboardInterrupt from error
        raise
    if code == CTRL_C:
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


def _usage(error: Exception, arguments: list[str]) -> WrongUse:
    text = getattr(error, "format_message", lambda: str(error))()
    message, _, near = text.partition(" Did you mean ")
    help_line = f"{_command(error, arguments, message)} --help"
    hint = f"did you mean {near}   " if near else ""
    return WrongUse("cli.usage", message.strip() or "wrong use", hint=f"{hint}see {help_line}")


def _command(error: Exception, arguments: list[str], message: str) -> str:
    """The command whose help tells more: the subcommand that was misused, the group of one that is none."""
    if path := getattr(getattr(error, "ctx", None), "command_path", ""):
        return str(path)
    verb = next((word for word in arguments if not word.startswith("-")), "")
    return f"steelyard {verb}" if verb and "command" not in message else "steelyard"


def _failed(error: Exception) -> int:
    """What the system refuses, memory among it, is the environment's; the rest is a bug of ours."""
    refused = from_os_error(error) if isinstance(error, OSError) else None
    problem = no_memory() if lacks_memory(error) else refused
    if problem is None:
        return _bug(error)
    failure(problem)
    return problem.exit_code


def _bug(error: Exception) -> int:
    """A fault of ours: short to the user, the trace to the log file."""
    path = _trace(error)
    where = say("the trace is in {path}; please report it", path=path)
    failure(
        Problem("internal.bug", f"{say('this is a bug in steelyard')}: {type(error).__name__}", hint=where)
    )
    if options.OPTIONS.verbose:
        note(_trace_text(error))
    return 1


def _trace_text(error: Exception) -> str:
    """The trace, and that of the child in which it happened."""
    return f"{trace_of(error)}\n{getattr(error, 'trace', '')}"


def _trace(error: Exception) -> Path:
    path = state_folder() / "errors.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')}\n{_trace_text(error)}\n")
    except OSError:  # no home to write to: the user still gets the message
        note(_trace_text(error))
    return path
