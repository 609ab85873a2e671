"""The rows of the order as batches, behind each other or apart, and whether a model keeps them apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .methods import COMPARED, batch_of

PROBE_TOKENS = 12
# Of the largest logit: what a row that is not seen may move it by. What leaks through a mask moves it by 0.5,
# through a convolution of random weights by 5e-4.
LEAK = 1e-5
NOISE = 4.0  # times what rounding does: experts multiply other rows together, in bf16 by 0.02

EMPTY = -1  # in place of a line: a micro-batch that teaches nothing
NOTHING = {"ids": [0] * 4, "labels": [-100] * 4, "lengths": [4]}


def dealt(lines: int, a_step: int, size: int) -> tuple[list[int], int]:
    """Numbers of lines as `size` processes take them in turn, and how many each takes a step.

    `a_step` lines make a step, the last one may have fewer; where they do not divide, EMPTY fills it up: the
    library would repeat rows instead.
    """
    if size == 1:
        return list(range(lines)), a_step
    rounds = -(-a_step // size)
    numbers: list[int] = []
    for start in range(0, lines, a_step):
        step = range(start, min(start + a_step, lines))
        numbers += [*step, *[EMPTY] * (rounds * size - len(step))]
    return numbers, rounds


class Order:
    """order.jsonl, a micro-batch a line: {"ids", "labels", "lengths"}; read where it is needed."""

    def __init__(self, path: Path, packing: bool, stage: str = "sft", words: Any = None) -> None:
        self.path, self.packing, self.stage, self.words = path, packing, stage, words
        self.starts = [0]
        with path.open("rb") as file:
            self.starts += [file.tell() for _ in iter(file.readline, b"")]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def line(self, number: int) -> dict[str, Any]:
        with self.path.open("rb") as file:
            file.seek(self.starts[number])
            return json.loads(file.readline())

    def batch(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """The collator: rows behind each other with positions of their own, or each in a row of its own."""
        number = features[0]["input_ids"][0]
        line = NOTHING if number == EMPTY else self.line(number)
        if self.stage in COMPARED:
            return batch_of(self.stage, line, apart)
        batch = flat(line) if self.packing else apart(line)
        return batch if self.words is None else batch | self.words.of(line)


def flat(line: dict[str, Any]) -> dict[str, Any]:
    import torch

    positions = torch.cat([torch.arange(n) for n in line["lengths"]])
    return {
        "input_ids": torch.tensor([line["ids"]]),
        "labels": torch.tensor([line["labels"]]),
        "position_ids": positions[None],
    }


def apart(line: dict[str, Any]) -> dict[str, Any]:
    """Filled up behind: no real token of a causal model sees what follows it."""
    import torch

    longest, count = max(line["lengths"]), len(line["lengths"])
    batch = {
        "input_ids": torch.zeros(count, longest, dtype=torch.long),
        "labels": torch.full((count, longest), -100),
        "attention_mask": torch.zeros(count, longest, dtype=torch.long),
    }
    start = 0
    for row, length in enumerate(line["lengths"]):
        part = slice(start, start + length)
        batch["input_ids"][row, :length] = torch.tensor(line["ids"][part])
        batch["labels"][row, :length] = torch.tensor(line["labels"][part])
        batch["attention_mask"][row, :length] = 1
        start += length
    return batch


def packs(model: Any) -> tuple[bool, str]:
    """Whether packed rows do not see each other: the logits of a second row must not move with the first by
    more than they do where both stand in rows of their own, which is rounding alone.

    Some families build their mask without positions, or have convolutions, and leak without a word; others
    refuse.
    """
    import torch

    vocab = model.config.get_text_config().vocab_size
    draw = torch.Generator().manual_seed(0)
    first, other, second = (torch.randint(0, vocab, (PROBE_TOKENS,), generator=draw) for _ in range(3))
    positions = torch.arange(PROBE_TOKENS).repeat(2)[None].to(model.device)

    def behind(before: Any) -> Any:
        ids = torch.cat([before, second])[None].to(model.device)
        return model(input_ids=ids, position_ids=positions, use_cache=False).logits[0, PROBE_TOKENS:].float()

    def beside(before: Any) -> Any:
        ids = torch.stack([before, second]).to(model.device)
        return model(input_ids=ids, use_cache=False).logits[1].float()

    def moved(place: Any) -> float:
        one, two = place(first), place(other)
        return float((one - two).abs().max() / one.abs().max())

    model.eval()
    try:
        with torch.no_grad():
            found, noise = moved(behind), moved(beside)
    except Exception as error:  # the library's own refusal, whatever its kind
        return False, f"refused: {type(error).__name__}"
    why = f"a row moved the next one's logits by {found:.2g} of the largest"
    return found <= max(LEAK, NOISE * noise), why
