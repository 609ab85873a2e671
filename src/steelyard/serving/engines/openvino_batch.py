"""One pipeline of GenAI and the requests in its hands.

Its prefix cache goes by token ids alone, so each adapter has a pipeline, and a cache, of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import openvino_genai as genai

from .openvino_prefix import PrefixBlocks
from .protocol import Event

BLOCK_TOKENS = 32  # of GenAI's paged KV cache on CPU
FINISH = {"STOP": "stop", "LENGTH": "length"}


@dataclass(slots=True)
class Running:
    """A request in GenAI's hands; `cached` until it has been told."""

    handle: Any
    logprobs: bool
    cached: int | None


class Batch:
    def __init__(self, pipeline: Any, scheduler: Any) -> None:
        self.pipeline, self.blocks = pipeline, scheduler.num_kv_blocks
        self.prefixes = PrefixBlocks(self.blocks if scheduler.enable_prefix_caching else 0, BLOCK_TOKENS)
        self.running: dict[int, Running] = {}

    def add(self, request_id: int, ids: list[int], tensor: Any, config: Any) -> None:
        handle = self.pipeline.add_request(request_id, tensor, config)
        cached = self.prefixes.take(request_id, ids)
        self.running[request_id] = Running(handle, bool(config.logprobs), cached)

    def cancel(self, request_id: int) -> None:
        if running := self._forget(request_id):
            running.handle.cancel()

    def busy(self) -> bool:
        return bool(self.pipeline.has_non_finished_requests())

    def step(self) -> list[Event]:
        self.pipeline.step()
        return list(self._events())

    def used_blocks(self) -> float:
        return float(self.pipeline.get_metrics().cache_usage) / 100 * self.blocks

    def _events(self) -> Iterator[Event]:
        for request_id, running in list(self.running.items()):
            if running.handle.can_read():
                for output in running.handle.read().values():
                    yield self._event(request_id, running, output)
            elif running.handle.get_status() == genai.GenerationStatus.IGNORED:
                # The scheduler drops what its cache can never hold.
                yield Event(request_id, [], finish="error")
                self._forget(request_id)

    def _event(self, request_id: int, running: Running, output: Any) -> Event:
        finish = FINISH.get(output.finish_reason.name)
        ids = list(output.generated_ids)
        logprobs = list(output.generated_log_probs) if running.logprobs else None
        cached, running.cached = running.cached, None
        self.prefixes.grow(request_id, ids)
        if finish:
            self._forget(request_id)
        return Event(request_id, ids, logprobs, finish, cached=cached)

    def _forget(self, request_id: int) -> Running | None:
        self.prefixes.leave(request_id)
        return self.running.pop(request_id, None)
