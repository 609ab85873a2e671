"""Rows of a dataset artefact as examples, the account of them, and one micro-batch as flat tensors."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from steelyard.compare import METRICS, metric_of
from steelyard.errors import Where, WrongUse
from steelyard.model import Example, Tokenizer, Unteachable, compared_examples

from .overlong import fitted
from .packing import Schedule, writes

SIZE_STEP = 32
OVERLONG = "split"
COMPARED = ("pairs", "labels")
KINDS = ("texts", "chats", *COMPARED)


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """One example of a row of the data. Four bytes a token and one for its mask.

    `mask[i]` is 1 where the loss counts the prediction of `ids[i]`; never for the first token. A pair is the
    better answer, and the worse one as `rejected`, each with its prompt; `label`: whether an answer is good.
    """

    ids: array[int]
    mask: bytes
    ability: str
    number: int  # of the row in the file, from 0
    weight: float = 1.0  # how often it is drawn among the rows of its ability
    counts: float = 1.0  # what each of its taught tokens counts in the loss
    rejected: TrainingExample | None = None
    label: bool | None = None
    row: Mapping[str, Any] | None = None  # itself, where sampled answers are compared with its own
    soft: tuple[Any, Any] | None = (
        None  # a teacher's likeliest tokens: ids and log-probabilities, [taught, K]
    )

    @property
    def sequences(self) -> list[TrainingExample]:
        """What goes through the model: itself, of a pair both answers."""
        return [self, self.rejected] if self.rejected else [self]

    @property
    def tokens(self) -> int:
        return sum(len(each.ids) for each in self.sequences)

    @property
    def taught_tokens(self) -> int:
        return sum(sum(each.mask) for each in self.sequences)

    @property
    def in_loss(self) -> float:
        """Its taught tokens by what each of them counts."""
        return self.taught_tokens * self.counts


@dataclass(slots=True)
class Rows:
    """Every row of a train.jsonl: its examples, or the reason why it has none."""

    examples: list[TrainingExample] = field(default_factory=list)
    kept_back: list[TrainingExample] = field(default_factory=list)  # of the stage, for looks while it trains
    names: list[str] = field(default_factory=list)  # the id of each row, as the user knows it
    groups: dict[int, str] = field(default_factory=dict)  # of rows that ask nearly what others ask
    dropped: Counter[str] = field(default_factory=Counter)
    split: set[int] = field(default_factory=set)
    truncated: set[int] = field(default_factory=set)
    left_out: dict[str, set[int]] = field(default_factory=dict)  # "thought" -> rows without it
    told: Any = None  # the file behind each example's `soft` (teacher.py), for an engine in another process

    def account(self, plan: Schedule, of: str = "all") -> dict[str, Any]:
        """taught.json: where every row ended, and the tokens of those taught, each counted once.

        `of` says which rows the stage teaches: all, chats, texts, pairs or labels. A row that no step
        reaches (max_steps, part of an epoch, a mix without it) is dropped: not_reached.
        """
        drawn = {n for step in plan.steps for batch in step for n in batch}
        examples = [self.examples[n] for n in sorted(drawn)]
        taught = {example.number for example in examples}
        dropped = self.dropped + Counter({"not_reached": self._with_examples() - len(taught)})
        account: dict[str, Any] = {
            "of": of,
            "rows": len(self.names),
            "taught": len(taught),
            "dropped": dict(sorted(dropped.items())),
            "split": len(self.split & taught),
            "truncated": len(self.truncated & taught),
            "tokens": sum(example.tokens for example in examples),
            "tokens_taught": sum(example.taught_tokens for example in examples),
            "left_out": {name: len(rows & taught) for name, rows in sorted(self.left_out.items())},
        }
        if account["rows"] != account["taught"] + dropped.total():
            raise AssertionError(f"rows do not add up: {account}")
        return account

    def steps(self, plan: Schedule, skipped: Collection[int] = ()) -> Iterator[dict[str, Any]]:
        """steps.jsonl: {"id", "steps"} of each row that was taught, in the order of the rows; steps from 1.

        `skipped`: steps (from 0) that were passed by.
        """
        taught: dict[int, list[int]] = {}
        for step, batches in enumerate(plan.steps):
            if step not in skipped:
                for number in {self.examples[n].number for batch in batches for n in batch}:
                    taught.setdefault(number, []).append(step + 1)
        for number in sorted(taught):
            yield {"id": self.names[number], "steps": taught[number]}

    def _with_examples(self) -> int:
        return len({example.number for example in self.examples})


def read_rows(path: Path, tokenizer: Tokenizer, settings: Mapping[str, Any]) -> Rows:
    """All rows of a train.jsonl, or those that the stage teaches: `rows` is "all" (chats and texts) or one of
    KINDS. Reads max_length and overlong too."""
    rows = Rows()
    with path.open("rb") as file:
        for number, line in enumerate(file):
            try:
                raw = orjson.loads(line)
                rows.names.append(str(raw.get("id", number + 1)))
                if "group" in raw:
                    rows.groups[number] = str(raw["group"])
                rows.examples.extend(_examples(raw, number, rows, tokenizer, settings))
            except Unteachable as e:
                rows.dropped[e.reason] += 1
            except (orjson.JSONDecodeError, KeyError) as e:
                raise WrongUse(
                    "data.row", f"not a training row: {e}", where=Where(path.name, number + 1)
                ) from e
    return rows


def _examples(
    raw: dict[str, Any], number: int, rows: Rows, tokenizer: Tokenizer, settings: Mapping[str, Any]
) -> Iterator[TrainingExample]:
    wanted, kind = settings.get("rows", "all"), kind_of(raw)
    if kind not in (("chats", "texts") if wanted == "all" else (wanted,)):
        rows.dropped[f"not_in_{wanted}"] += 1
        return
    if settings.get("stage") == "grpo":
        yield _rewarded(raw, number, tokenizer, settings["max_length"])
        return
    if kind in COMPARED or writes(settings):
        yield _compared(raw, number, tokenizer, settings["max_length"])
        return
    result = fitted(tokenizer, raw, settings["max_length"], settings.get("overlong") or OVERLONG)
    if result.split:
        rows.split.add(number)
    if result.truncated:
        rows.truncated.add(number)
    for example in result.examples:
        for name in example.left_out:
            rows.left_out.setdefault(name, set()).add(number)
        yield _row(example, raw, number)


def kind_of(raw: Mapping[str, Any]) -> str:
    """Of KINDS, what a row of a dataset artefact is."""
    if "rejected" in raw:
        return "pairs"
    return "texts" if "text" in raw else "labels" if "label" in raw else "chats"


def _compared(raw: Mapping[str, Any], number: int, tokenizer: Tokenizer, max_length: int) -> TrainingExample:
    """A pair or a rated answer. Raises Unteachable where one of its answers does not fit: none is cut."""
    examples = compared_examples(tokenizer, raw)
    if any(len(example.ids) > max_length for example in examples):
        raise Unteachable("too_long")
    first, *second = (_row(example, raw, number) for example in examples)
    return replace(first, rejected=second[0] if second else None, label=raw.get("label"))


def _rewarded(raw: Mapping[str, Any], number: int, tokenizer: Tokenizer, max_length: int) -> TrainingExample:
    """A prompt, and its own answer to compare sampled ones with. Raises Unteachable where nothing can."""
    if raw["messages"][-1].get("tool_calls"):
        raise Unteachable("calls_tools")
    if metric_of(raw) not in METRICS:
        raise Unteachable("no_reward")
    return replace(_compared(raw, number, tokenizer, max_length), row=raw)


def _row(example: Example, raw: Mapping[str, Any], number: int) -> TrainingExample:
    ids, mask = array("i", example.ids), bytes([0, *example.mask[1:]])
    return TrainingExample(ids, mask, raw.get("ability", ""), number, raw.get("weight", 1.0))


# ------------------------------------------------------------------ one micro-batch


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows one behind the other. T tokens, N of them are predicted; `answers` of these N have a loss.

    T and N are multiples of SIZE_STEP: every new size costs the matrix library new kernels (20 MB and more),
    kept for ever. The few tokens more stand at the end of the last row, unseen by every real one.
    """

    ids: Any  # [T]
    positions: Any  # [T], from 0 in each row
    layout: Any
    before: Any  # [N], the tokens whose output predicts
    targets: Any  # [N]
    answers: int
    soft: tuple[Any, Any] | None = None  # ids and probabilities of a teacher's likeliest tokens, [N, K] each
    counts: Any = None  # [answers, 1], of each token in the loss; None: all alike


def batch_of(rows: Sequence[TrainingExample], network: Any) -> MicroBatch:
    """The micro-batch of these rows."""
    import torch

    lengths = [len(row.ids) for row in rows]
    mask = torch.tensor(list(b"".join(row.mask for row in rows)), dtype=torch.bool)
    ids = _filled(torch.tensor([token for row in rows for token in row.ids]))
    lengths[-1] += ids.numel() - sum(lengths)
    target = torch.nonzero(mask).reshape(-1)
    before = _filled(target - 1)
    return MicroBatch(
        ids=ids,
        positions=torch.cat([torch.arange(length) for length in lengths]),
        layout=network.layout(lengths),
        before=before,
        targets=_filled(ids[target]),
        answers=target.numel(),
        soft=_soft(rows, before.numel()),
        counts=_counts(rows),
    )


def _counts(rows: Sequence[TrainingExample]) -> Any:
    """What each taught token counts, one below the other; None where all count 1."""
    import torch

    if all(row.counts == 1.0 for row in rows):
        return None
    tokens = torch.tensor([sum(row.mask) for row in rows])
    return torch.tensor([row.counts for row in rows]).repeat_interleave(tokens)[:, None]


def _soft(rows: Sequence[TrainingExample], size: int) -> tuple[Any, Any] | None:
    """What a teacher says of the taught tokens, filled up to `size` of them; None without a teacher."""
    import numpy as np
    import torch

    if rows[0].soft is None:
        return None
    parts = [row.soft for row in rows if row.soft is not None]
    ids, logps = (torch.from_numpy(np.concatenate([part[n] for part in parts])) for n in (0, 1))
    room = (0, 0, 0, size - len(ids))
    return (
        torch.nn.functional.pad(ids.long(), room),
        torch.nn.functional.pad(logps.float().exp(), room),
    )


def _filled(values: Any) -> Any:
    """Zeros at the end, up to a multiple of SIZE_STEP."""
    import torch

    return torch.nn.functional.pad(values, (0, -values.numel() % SIZE_STEP))
