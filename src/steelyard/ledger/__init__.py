"""Predicted beside measured, one row a step, in SQLite. Not here: how rows are shown."""

from .store import Ledger, Row

__all__ = ["Ledger", "Row"]
