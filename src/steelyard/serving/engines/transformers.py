"""Any family that transformers has, as it is: a child computes logits, tokens are chosen here.

Each sequence is computed by itself, a token a step, so that nobody's answer depends on who else asks. Right
before fast: what has many users goes to vLLM.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...model import TransformersNetwork, trl_missing
from .protocol import Capability, EngineSettings, Event, GenRequest, Scores, read_form
from .sampling import Sampler, logprob_of

DTYPES = {"bf16": "bfloat16", "f32": "float32"}


def transformers_capability() -> Capability:
    return Capability(
        continuous=True,
        prefix_cache=False,
        prompt_logprobs=True,
        gen_logprobs=True,
        top_logprobs=True,
        grammar=(),
        logit_bias=True,
        min_tokens=True,
        lora="none",  # a tuned model is served merged
        mixed_adapters=False,
        speculative=(),
        embed=False,
        forms=tuple(DTYPES),
        kv_forms=tuple(DTYPES),
        unusable=trl_missing(),
    )


@dataclass(slots=True, eq=False)
class Sequence:
    """One answer under way."""

    request: GenRequest
    sampler: Sampler
    answer: list[int]


class TransformersEngine:
    name = "transformers"

    def __init__(self, settings: EngineSettings) -> None:
        """Raises Lacking where the child cannot load the model."""
        self.settings, folder = settings, Path(settings.folder)
        precision = "f32" if settings.mode == "exact" else read_form(folder)["precision"]
        self.network = TransformersNetwork(folder, DTYPES[precision], settings.threads)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    def add(self, request: GenRequest) -> None:
        if request.adapter is not None:
            raise ValueError("the engine transformers serves no adapters: serve the merged model")
        if request.grammar is not None:
            raise ValueError("the engine transformers follows no grammar")
        self.waiting.append(Sequence(request, Sampler(request), []))

    def cancel(self, request_id: int) -> bool:
        begun = False
        for sequence in [s for s in self.running if s.request.request_id == request_id]:
            begun = True
            self._leave(sequence)
        self.waiting = deque(s for s in self.waiting if s.request.request_id != request_id)
        return not begun

    def holds(self, request_id: int) -> bool:
        return False  # `cancel` is at once

    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    def step(self) -> list[Event]:
        """A token for each answer under way, and the prompt of one that waits."""
        under_way = list(self.running)
        events: list[Event] = []
        if under_way:
            slots = [s.request.request_id for s in under_way]
            rows = self.network.decode(slots, [s.answer[-1] for s in under_way])
            events = [self._token(s, row) for s, row in zip(under_way, rows, strict=True)]
        if self.waiting and len(self.running) < self.settings.max_num_seqs:
            sequence = self.waiting.popleft()
            self.running.append(sequence)
            row = self.network.prefill(sequence.request.request_id, sequence.request.ids)
            events.append(self._token(sequence, row))
        return events

    def _token(self, sequence: Sequence, row: np.ndarray) -> Event:
        request = sequence.request
        token = sequence.sampler.choose(row)
        event = Event(request.request_id, [token], cached=None if sequence.answer else 0)
        sequence.answer.append(token)
        if request.logprobs:
            logprob, tops = logprob_of(row, token, request.top)
            event.logprobs, event.tops = [logprob], [tops] if request.top else None
        if token in request.stop_ids:
            event.finish = "stop"
        elif len(sequence.answer) >= request.max_tokens:
            event.finish = "length"
        if event.finish:
            self._leave(sequence)
        return event

    def _leave(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.network.drop(sequence.request.request_id)

    # ------------------------------------------------------------------ the rest of the protocol

    def score_pieces(self, ids: list[int], top: int) -> Iterator[Scores | None]:
        yield self.score(ids, top)

    def score(self, ids: list[int], top: int) -> Scores:
        """Teacher-forced, in one piece."""
        return Scores(**self.network.score(ids, top))

    def embed(self, batch: list[list[int]]) -> list[list[float]]:
        raise NotImplementedError("a model that generates has no embeddings; serve an encoder beside it")

    def load_adapter(self, name: str, folder: str) -> None:
        raise NotImplementedError("the engine transformers serves no adapters: serve the merged model")

    def drop_adapter(self, name: str) -> None:
        """There is none."""

    def forget_grammars(self) -> None:
        """There are none."""

    def idle(self, seconds: float) -> None:
        """Nothing is kept between answers."""

    def metrics(self) -> dict[str, float]:
        tokens = sum(len(s.request.ids) + len(s.answer) for s in self.running)
        room = self.settings.max_num_seqs * self.settings.max_model_len
        return {"cache_usage": tokens / room, "prefix_cache_queries": 0.0, "prefix_cache_hits": 0.0}

    def close(self) -> None:
        self.network.close()
