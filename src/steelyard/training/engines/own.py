"""The engine `own`: this CPU's loop, the smallest and fastest, for the families that have a network here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...artefact import Draft, Figures, Watch
from ...model import FAMILIES, Tokenizer
from .protocol import TrainCapability, TrainJob

if TYPE_CHECKING:
    from ..rows import Rows
    from ..teacher import Told


def own_capability() -> TrainCapability:
    """One process on the CPU; its families are the files of model/families that have a network."""
    return TrainCapability(
        stages=("sft", "pt", "distil"),
        finetuning_types=("lora", "full"),
        families=tuple(name for name, family in FAMILIES.items() if family.trainable),
        devices=("cpu",),
        lacks=("modules_to_save", "lmbda"),
    )


class OwnEngine:
    """The loop (loop.py) behind the protocol."""

    name = "own"

    def run(self, job: TrainJob, out: Draft, watch: Watch) -> Figures:
        """Raises Diverged, OutOfMemory; Stopped after a checkpoint."""
        from ..loop import Loop, settle
        from ..steering.weighted import keep_general
        from ..trainable import Lora
        from .gridded import learnt_of

        settle(job.settings["threads"])
        network, learnt = learnt_of(job.base, job.settings)
        more = (job.tell, job.mends, job.steering, job.held)
        loop = Loop(network, learnt, job.rows, job.plan, job.settings, out, watch, *more)
        loop.questions = job.questions
        loop.restore()
        for point in loop.curve:
            job.tell(point)
        loop.run()
        loop.take_best()
        figures = loop.figures()
        if "general" in job.settings and isinstance(learnt, Lora):
            figures |= keep_general(network, learnt, Tokenizer(job.base), job.settings["general"], watch)
        loop.write(job.base)
        return figures

    def ask(self, rows: Rows, teacher: Path, settings: Mapping[str, Any], told: Told, watch: Watch) -> None:
        from ..teacher import ask_here

        ask_here(rows, teacher, settings, told, watch)
