"""What a chat asks, as a router reads it, and what a router says: light, since every front loads it.

Not here: the router itself (router.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Route:
    """`ability` None: not sure, the base answers."""

    ability: str | None
    likeliest: str
    probability: float


def asked_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """What the router reads of a chat: the system's words and the last user's, as text."""
    system = next((m for m in messages if m.get("role") in ("system", "developer")), None)
    user = next((m for m in reversed(messages) if m.get("role") == "user"), None)
    return "\n".join(_text(m) for m in (system, user) if m is not None)


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
