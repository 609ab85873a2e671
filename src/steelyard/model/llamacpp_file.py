"""Where llama.cpp's C functions are: in the library that the package xllamacpp brings, or in another."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

LLAMACPP_VARIABLE = "STEELYARD_LLAMACPP"


def llamacpp_library() -> Path | None:
    """The file, None where there is none. $STEELYARD_LLAMACPP names another libllama.so."""
    if named := os.environ.get(LLAMACPP_VARIABLE):
        return Path(named)
    spec = find_spec("xllamacpp")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return next((f for place in places for f in sorted(Path(place).glob("xllamacpp*.so"))), None)
