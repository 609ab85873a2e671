"""Where this user's things lie, outside of any project: what can be made again, and what cannot."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """$STEELYARD_CACHE, else the user's cache folder."""
    return _folder("STEELYARD_CACHE", "XDG_CACHE_HOME", ".cache")


def state_folder() -> Path:
    """$STEELYARD_STATE, else the user's folder for state."""
    return _folder("STEELYARD_STATE", "XDG_STATE_HOME", ".local/state")


def data_folder() -> Path:
    """$STEELYARD_DATA, else the user's folder for data."""
    return _folder("STEELYARD_DATA", "XDG_DATA_HOME", ".local/share")


def erased_file() -> Path:
    """The list of rows that were erased (data/steps/suppressed.py)."""
    return state_folder() / "erased" / "rows.json"


def config_folder() -> Path:
    """$STEELYARD_CONFIG, else the user's folder for settings and keys."""
    return _folder("STEELYARD_CONFIG", "XDG_CONFIG_HOME", ".config")


def audit_folder() -> Path | None:
    """$STEELYARD_AUDIT, else in the user's folder for state; None where it is "off"."""
    named = os.environ.get("STEELYARD_AUDIT")
    if named == "off":
        return None
    return Path(named) if named and named != "on" else state_folder() / "audit"


def signing_key_file() -> Path:
    """$STEELYARD_SIGNING_KEY, else beside the user's other keys."""
    return Path(os.environ.get("STEELYARD_SIGNING_KEY") or config_folder() / "signing-key")


def _folder(ours: str, users: str, default: str) -> Path:
    home = Path(os.environ.get(users) or Path.home() / default)
    return Path(os.environ.get(ours) or home / "steelyard")
