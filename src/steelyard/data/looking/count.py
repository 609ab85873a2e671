"""What a plan needs to know of the data: rows and tokens, by the model's own tokenizer, after cleaning."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from ..account import Account
from ..cleaning import Cleaning, CleanOrder
from ..reading.opened import PACKED
from ..reading.sources import files_of
from ..row import Row
from ..steps import counter

ROWS_READ = 20_000  # a file; the rest is taken to be like them
ROWS_TOKENIZED = 4_000  # an even sample beyond


def count(settings: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """{"rows", "bytes", "tokens", "answer_tokens", "longest", "lengths", "abilities", "texts", "pairs",
    "labels", "held_out", "held_out_by"}.

    `rows` are those training would see, `tokens` theirs, prompt and answer with special tokens; `lengths`
    are tokens an example (a row has several where the template rewrites history), of all rows or an even
    sample; `held_out` counts the gate's rows, `held_out_by` those of each ability. Files of more than 20,000
    rows are read so far, and counts scaled by bytes. Deterministic. Raises WrongUse as `clean` does.
    """
    cleaning = Cleaning.of(CleanOrder.of(settings, counter(tokenizer)), rows_limit=ROWS_READ)
    order = cleaning.order
    every = [(judged.row, judged.prompt) for judged, _ in cleaning.run() if judged.row]
    chosen = cleaning.divided([(row.ability, prompt, row.made) for row, prompt in every])
    kept = [one for number, one in enumerate(every) if number not in cleaning.settled]
    train = [row for row, prompt in kept if prompt not in chosen]
    held = Counter(row.ability for row, prompt in kept if prompt in chosen)
    scale = unread_factor(cleaning.account)
    sample = train[:: max(1, -(-len(train) // ROWS_TOKENIZED))]
    examples = [example for row in sample for example in spans(tokenizer, row)]
    factor = scale * len(train) / len(sample) if sample else 1.0
    return {
        "rows": round(len(train) * scale),
        "bytes": sum(f.path.stat().st_size for _, f in files_of(order.sources, order.root)),
        "tokens": round(sum(length for length, _ in examples) * factor),
        "answer_tokens": round(sum(answer for _, answer in examples) * factor),
        "longest": max((length for length, _ in examples), default=0),
        "lengths": [length for length, _ in examples],
        "abilities": {a: round(n * scale) for a, n in sorted(Counter(r.ability for r in train).items())},
        "texts": round(sum(row.messages is None for row in train) * scale),
        "pairs": round(sum(row.rejected is not None for row in train) * scale),
        "labels": round(sum(row.label is not None for row in train) * scale),
        "held_out": len(cleaning.test) + round((len(kept) - len(train)) * scale),
        "held_out_by": held_out_by(Counter(row.ability for row in cleaning.test), held, scale),
    }


def held_out_by(own: Counter[str], held: Counter[str], scale: float) -> dict[str, int]:
    """Held-out rows of each ability: those of evaluation files, and those taken from the sources."""
    return {a: own[a] + round(held[a] * scale) for a in sorted({*own, *held})}


def unread_factor(account: Account) -> float:
    """Bytes of all files over bytes read, where the limit cut a file short; else exactly 1."""
    if not any(f.format == "jsonl" and f.read >= ROWS_READ for f in account.files):
        return 1.0
    whole = sum(unpacked_bytes(f.path) for f in account.files)
    read = sum(f.bytes for f in account.files)
    return max(1.0, whole / read) if read else 1.0


def unpacked_bytes(path: Path) -> int:
    """Of a packed file about four times its size: reading it all would cost what the sample saves."""
    return path.stat().st_size * (4 if path.suffix in PACKED else 1)


def spans(tokenizer: Any, row: Row) -> list[tuple[int, int]]:
    """Tokens of each example that the row teaches, and how many of them it teaches; [] if it teaches none."""
    from ...model import Unteachable, compared_examples, taught_examples

    examples_of = compared_examples if row.rejected or row.label is not None else taught_examples
    try:
        return [(len(e.ids), sum(e.mask)) for e in examples_of(tokenizer, row.as_json())]
    except Unteachable:
        return []
