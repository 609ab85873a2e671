"""What a training does when it cannot go on: smaller micro-batches, a batch left out, or one clear error.

The rules are bounded and depend on the rows and the numbers alone, never on a clock. What was mended is kept
in the scratch, so that every later attempt computes the same steps, and stands in the artefact's figures.

    no memory         each micro-batch in twice as many parts, of the same step: equal sum, smaller pieces
    no number, spike  back to the last whole checkpoint, on without that step's batch

A batch whose loss is no number spoils the update, so it is left out; when the step after it is none either,
the weights are spoilt, which leaving out mends nothing of. (PaLM, arXiv 2204.02311, section 5.1, went back
and skipped batches; OLMo-core's SkipStepOptimizer leaves out steps 6 deviations off.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, pstdev
from typing import Any

from steelyard.errors import CheckFailed, Lacking, Problem

from .mends import Batches, Mends
from .packing import Schedule, writes
from .rows import Rows, TrainingExample

MOST_SKIPPED = 3  # batches of a run
SPIKE_STEPS, SPIKE_DEVIATIONS = 128, 6.0  # as OLMo-core's SkipStepOptimizer; half as many steps are enough
SUMMED = ("sft", "pt", "distil")  # their loss is a sum over tokens: parts of a micro-batch add up to it
NAMED_ROWS = 5  # of those in a step that went wrong


class OutOfMemory(Lacking):
    """A step got no memory; what is not a step's (loading a model) is Lacking alone."""

    def __init__(self, step: int, batches: Batches | None = None) -> None:
        super().__init__(
            "memory.exhausted",
            f"step {step + 1} got no memory",
            hint="free memory, or lower per_device_train_batch_size or max_length, and run again",
        )
        self.step = step  # from 0
        self.batches = batches  # its micro-batches, where they are no longer those of the plan


class Diverged(CheckFailed):
    """The loss or the gradient of a step is no number, or far above all before."""

    def __init__(self, code: str, message: str, *, step: int, rows: str, **more: Any) -> None:
        super().__init__(code, message, **more)
        self.step, self.rows = step, rows  # from 0; names of its rows


def adds_up(settings: Mapping[str, Any]) -> bool:
    """Whether the loss of a step is the sum of that of its parts, whatever these are."""
    return settings["stage"] in SUMMED and not writes(settings)


def mended(mends: Mends, problem: Problem, plan: Schedule, rows: Rows, settings: Mapping[str, Any]) -> Mends:
    """What to do otherwise after this problem. Raises it, or what is left to say, where nothing helps."""
    if isinstance(problem, OutOfMemory) and adds_up(settings):
        return smaller(mends, problem.batches or plan.steps[problem.step], rows, problem)
    if isinstance(problem, Diverged):
        return without(mends, problem)
    raise problem


def smaller(mends: Mends, step: Batches, rows: Rows, problem: Problem) -> Mends:
    """Twice as many parts. Raises Lacking where each row of these micro-batches is alone already."""

    def length(row: int) -> int:
        return len(rows.examples[row].ids)

    if max(len(part) for part in mends.batches(step, length)) > 1:
        more = replace(mends, parts=2 * mends.parts)
        while [p for p in more.batches(step, length) if p] == [p for p in mends.batches(step, length) if p]:
            more = replace(more, parts=2 * more.parts)  # one long row may keep others beside it
        return more
    longest = max((row for batch in step for row in batch), key=length)
    raise row_too_large(rows, longest) from problem


def row_too_large(rows: Rows, row: int) -> Lacking:
    example = rows.examples[row]
    return Lacking(
        "memory.row_too_large",
        f"a row of {len(example.ids)} tokens gets no memory by itself",
        why=f"row {rows.names[example.number]}; its micro-batch was made smaller until it was alone in one",
        hint="lower train.max_length (overlong: split cuts longer rows), train with finetuning_type: lora, "
        "or free memory, and run again",
    )


def without(mends: Mends, problem: Diverged) -> Mends:
    """Without that step's batch. Raises the problem itself at the second in a row, or above MOST_SKIPPED."""
    before = max((step for step in mends.skipped if step < problem.step), default=None)
    in_a_row = before == problem.step - 1
    if in_a_row or len(mends.skipped) >= MOST_SKIPPED or problem.step in mends.skipped:
        times = len(mends.skipped)
        spoilt = "the batch before it was left out already: the weights are spoilt"
        problem.why = f"{problem.why}; {spoilt if in_a_row else f'{times} batches were left out before'}"
        raise problem
    return replace(mends, skipped=tuple(sorted((*mends.skipped, problem.step))))


def spikes(losses: Sequence[float], loss: float) -> bool:
    """Is this loss above all before it, and SPIKE_DEVIATIONS above the mean of the last SPIKE_STEPS?

    Above all before, so that a hard batch late in a run, when losses lie close together, is none.
    """
    last = losses[-SPIKE_STEPS:]
    if len(last) < SPIKE_STEPS // 2 or loss <= max(losses):
        return False
    return loss > fmean(last) + SPIKE_DEVIATIONS * pstdev(last)


def diverged(
    rows: Rows,
    made_by: Sequence[TrainingExample],
    what: str,
    value: float | str,
    step: tuple[int, int],
    saved: int,
) -> Diverged:
    """`what`: loss or gradient; `step`: its number, of how many; `saved`: the step of the last checkpoint."""
    names = [rows.names[number] for number in dict.fromkeys(row.number for row in made_by)]
    more = f" and {len(names) - NAMED_ROWS} more" if len(names) > NAMED_ROWS else ""
    named = f"{', '.join(names[:NAMED_ROWS])}{more}"
    hint = "look at these rows, or lower train.learning_rate"
    return Diverged(
        "train.diverged",
        f"the {what} of step {step[0]} of {step[1]} is {value}",
        step=step[0] - 1,
        rows=named,
        why=f"rows of this step: {named}",
        hint=f"{hint}; the checkpoint of step {saved} is kept" if saved else hint,
    )
