"""What a larger model says of every taught token: its likeliest next tokens, kept on disk.

An engine asks it (here the engine own), and each reads the same file.

    told.ids [T, K] int32            T taught tokens of all examples, in their order
    told.logps [T, K] float16
    told.done                        how many of them are whole: a killed pass goes on there

The teacher is read once, before the student is loaded: the two never share the memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.artefact import Watch, private_folder, write_durably
from steelyard.errors import Stopped

from .rows import Rows, TrainingExample, batch_of

TOP = 64  # tokens kept of each distribution; the rest is one more class
PASS_TOKENS = 1024  # of a forward pass over rows: the teacher's, and of a look at held-out rows
HEAD_CHUNK_TOKENS = 256
SAVE_EVERY = 32  # batches


@dataclass(frozen=True, slots=True)
class Told:
    """The file of a teacher's words."""

    folder: Path
    tokens: int
    top: int

    def arrays(self) -> tuple[np.memmap, np.memmap]:
        """ids and log-probabilities, [T, K] each."""
        made = []
        for name, dtype in (("ids", np.int32), ("logps", np.float16)):
            path, shape = self.folder / f"told.{name}", (self.tokens, self.top)
            made.append(np.memmap(path, dtype, "r+" if path.exists() else "w+", shape=shape))
        return made[0], made[1]

    def done(self) -> int:
        path = self.folder / "told.done"
        return int(path.read_text()) if path.exists() else 0


# (rows, the teacher's folder, settings, what it has told so far, watch): asks it the rest. Raises Stopped.
Ask = Callable[[Rows, Path, Mapping[str, Any], Told, Watch], None]


def with_teacher(
    rows: Rows,
    teacher: Path,
    settings: Mapping[str, Any],
    scratch: Path | None,
    watch: Watch,
    ask: Ask | None = None,
) -> Rows:
    """The same rows, each with what the teacher says of its taught tokens; the engine own asks where no other
    `ask` is given.

    Kept in `scratch` for the next attempt; None (sealed work): in memory. Raises Stopped.
    """
    top = (settings.get("method") or {}).get("loss_top_k") or TOP
    folder = private_folder() if scratch is None else scratch / f"teacher-{key_of(rows, settings, top)}"
    folder.mkdir(parents=True, exist_ok=True)
    told = Told(folder, sum(row.taught_tokens for row in rows.examples), top)
    ids, logps = told.arrays()
    if told.done() < told.tokens:
        (ask or ask_here)(rows, teacher, settings, told, watch)
    ends = np.cumsum([row.taught_tokens for row in rows.examples])
    examples = [
        replace(row, soft=(ids[end - row.taught_tokens : end], logps[end - row.taught_tokens : end]))
        for row, end in zip(rows.examples, ends, strict=True)
    ]
    return replace(rows, examples=examples, told=told)


def key_of(rows: Rows, settings: Mapping[str, Any], top: int) -> str:
    """Equal where the teacher was asked the same."""
    digest = hashlib.sha256(json.dumps([settings["teacher_hash"], settings["dtype"], top]).encode())
    for row in rows.examples:
        digest.update(row.ids.tobytes() + row.mask)
    return digest.hexdigest()[:16]


def ask_here(rows: Rows, teacher: Path, settings: Mapping[str, Any], told: Told, watch: Watch) -> None:
    """Run the teacher over all examples that it has not answered yet."""
    import torch

    from steelyard.model import load

    torch.set_num_threads(settings["threads"])
    network = load(teacher, "bfloat16" if settings["dtype"] == "bf16" else "float32")
    network.anchor = torch.zeros(())
    ids, logps = told.arrays()
    start, begun = 0, told.done()
    with watch.progress("teacher", told.tokens - begun, "tokens") as bar, torch.no_grad():
        for number, batch in enumerate(batches(rows.examples)):
            count = sum(row.taught_tokens for row in batch)
            if start >= begun:
                best, found = likeliest(network, batch, told.top, settings.get("vocab"))
                ids[start : start + count], logps[start : start + count] = found, best
                bar.advance(count)
                if number % SAVE_EVERY == 0 or watch.stop:
                    save(told, start + count, ids, logps)
                if watch.stop:
                    raise stopped()
            start += count
    save(told, told.tokens, ids, logps)


def stopped() -> Stopped:
    hint = "run the same command again: it goes on from there"
    return Stopped("train.stopped", "stopped while the teacher was asked", hint=hint)


def batches(rows: Sequence[TrainingExample]) -> Iterator[list[TrainingExample]]:
    """Runs of examples of about PASS_TOKENS tokens, the same for every attempt; a longer row is alone."""
    batch: list[TrainingExample] = []
    for row in rows:
        if batch and sum(len(r.ids) for r in batch) + len(row.ids) > PASS_TOKENS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def likeliest(
    network: Any, rows: Sequence[TrainingExample], top: int, vocab: int | None = None
) -> tuple[Any, Any]:
    """([N, K] log-probabilities, [N, K] ids) of the tokens that the teacher holds likeliest, of the first
    `vocab`: two sizes of a model may have different numbers of rows without a token."""
    import torch

    batch = batch_of(rows, network)
    hidden = network.flat(batch.ids, batch.positions, batch.layout, batch.before)[: batch.answers]
    found = []
    for part in hidden.split(HEAD_CHUNK_TOKENS):
        found.append(((part @ network.output.t())[:, :vocab].float().log_softmax(1)).topk(top, dim=1))
    return (
        torch.cat([best for best, _ in found]).half().numpy(),
        torch.cat([ids for _, ids in found]).int().numpy(),
    )


def save(told: Told, done: int, ids: np.memmap, logps: np.memmap) -> None:
    ids.flush()
    logps.flush()
    write_durably(told.folder / "told.done", str(done).encode())
