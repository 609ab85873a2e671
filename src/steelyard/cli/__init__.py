"""Words, tables, bars, exit codes: the command line. Decides nothing."""

from .main import main

__all__ = ["main"]
