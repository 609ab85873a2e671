"""What a step is given, and what it reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..row import Row
from .suppressed import NOTHING, Suppressed

NEAR = 0.5  # of the shingles


@dataclass(frozen=True, slots=True)
class Finding:
    """`kind` is the word in the account; `action` drop, report or redact; `count` is how often it occurs."""

    kind: str
    action: str
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The recipe's `clean`, checked. `enabled` False keeps every row as it is."""

    enabled: bool = True
    dedup: str = "near"  # near | exact | none
    pii: str = "report"  # report | mask | off
    pii_model: str | None = None  # folder of a token classifier, for names and addresses in prose
    licences: tuple[str, ...] = ()  # that a row may be under; () = any, or none
    consent: str | None = None  # required | None
    max_chars: int = 1_000_000  # a longer row is a file that lost its line ends
    max_tokens: int | None = None
    unreadable: str = "stop"  # stop | drop
    test_share: float | None = None
    split: str = "equal"  # equal | near: questions that never stand on both sides
    languages: tuple[str, ...] = ()  # of plain texts that stay; () = those that most are in
    off: tuple[str, ...] = ()  # kinds that no row is dropped or mended for
    tokens_of: Callable[[Row], int] | None = None  # None = estimated
    suppressed: Suppressed = NOTHING  # rows that were erased; no word of a recipe lets them pass

    @property
    def near(self) -> float | None:
        """The Jaccard index from which plain texts are near-duplicates."""
        return NEAR if self.dedup == "near" and "near_duplicate" not in self.off else None
