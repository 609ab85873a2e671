"""Events into the core, one after another."""

from __future__ import annotations

from steelyard.cluster import Decision, Event, Fleet, step


def told(state: Fleet, *events: Event) -> tuple[Fleet, list[Decision]]:
    """The state after them, and all that was decided."""
    said: list[Decision] = []
    for event in events:
        state, decisions = step(state, event)
        said += decisions
    return state, said
