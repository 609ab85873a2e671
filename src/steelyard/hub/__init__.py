"""Model hubs over HTTP: fetch a model, resumable and hashed. The one room that speaks to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..doors import fetching

if TYPE_CHECKING:
    from .download import Pulled, is_here, pull

FILES = {"Pulled": "download", "is_here": "download", "pull": "download"}

__all__ = ["Pulled", "is_here", "pull"]

__getattr__ = fetching(__name__, FILES)
