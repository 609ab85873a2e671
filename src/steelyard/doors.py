"""A room's door that loads nothing: each public name is fetched from its file when first used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def fetching(room: str, files: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of module `room`; `files` gives the file of each public name.

    No file may bear the name of something public: Python would bind the sub-module over it.
    """

    def fetch(name: str) -> Any:
        if name not in files:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        thing = getattr(import_module(f"{room}.{files[name]}"), name)
        setattr(sys.modules[room], name, thing)
        return thing

    return fetch
