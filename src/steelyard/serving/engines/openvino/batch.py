"""One pipeline of GenAI and the requests in its hands.

Its prefix cache goes by token ids alone, so each adapter has a pipeline, and a cache, of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import openvino_genai as genai

from ..prefix import common_prefix
from ..protocol import Event
from .prefix import PrefixBlocks

BLOCK_TOKENS = 32  # of GenAI's paged KV cache on CPU
FINISH = {genai.GenerationFinishReason.STOP: "stop", genai.GenerationFinishReason.LENGTH: "length"}
WORTH_WAITING_TOKENS = 128  # of a prefix that another prompt is computing: 90 ms of two cores


@dataclass(slots=True)
class Running:
    """A request in GenAI's hands; `cached` until it has been told, `filling` until its prompt is computed."""

    handle: Any
    logprobs: bool
    cached: int | None
    ids: list[int]
    filling: bool = True
    left: bool = False  # nobody waits for it any more


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request whose beginning is being computed by `leader`: then it is found, not computed again."""

    leader: int
    request: tuple[int, list[int], Any, Any, str]


class Batch:
    """Requests are handed on at once, but for those that share a prompt's beginning with one under way.

    GenAI looks for a prompt in its cache when it comes: of several that come together none finds anything.
    """

    def __init__(self, pipeline: Any, scheduler: Any) -> None:
        self.pipeline, self.blocks = pipeline, scheduler.num_kv_blocks
        self.prefixes = PrefixBlocks(self.blocks if scheduler.enable_prefix_caching else 0, BLOCK_TOKENS)
        self.running: dict[int, Running] = {}
        self.waiting: dict[int, Waiting] = {}

    def add(self, request_id: int, ids: list[int], tensor: Any, config: Any, salt: str = "") -> None:
        if (leader := self._leader(ids)) is not None:
            self.waiting[request_id] = Waiting(leader, (request_id, ids, tensor, config, salt))
            return
        handle = self.pipeline.add_request(request_id, tensor, config)
        cached = self.prefixes.take(request_id, ids, salt)
        self.running[request_id] = Running(handle, bool(config.logprobs), cached, ids)

    def _leader(self, ids: list[int]) -> int | None:
        """A running prompt whose uncomputed part gives this one enough, and does not hold it up for long.

        Or one that goes on in the same half-full block: GenAI would have both write into it.
        """
        filling = [(request_id, other) for request_id, other in self.running.items() if other.filling]
        if not filling or not self.prefixes.capacity:
            return None
        if end := self.prefixes.half_full(ids):
            for request_id, other in filling:
                if other.ids[:end] == ids[:end]:
                    return request_id
        for request_id, other in filling:
            if other.ids[:WORTH_WAITING_TOKENS] == ids[:WORTH_WAITING_TOKENS]:
                shared = common_prefix(ids, other.ids)
                if shared - (other.cached or 0) >= WORTH_WAITING_TOKENS and 2 * shared >= len(other.ids):
                    return request_id
        return None

    def _release(self) -> list[int]:
        """Add those whose leader is done, or gone; one of them may lead the others. Returns the refused."""
        refused = []
        for request_id, waiting in list(self.waiting.items()):
            leader = self.running.get(waiting.leader)
            if leader is None or not leader.filling:
                del self.waiting[request_id]
                try:
                    self.add(*waiting.request)
                except Exception:  # the others' answers must not end with it
                    refused.append(request_id)
        return refused

    def cancel(self, request_id: int) -> bool:
        """At once, but in the middle of a prompt at its end. Returns whether it had not begun.

        GenAI names a block by all that it will hold when it begins to fill it; freed before it is full, it
        would be found under that name by the next prompt that begins alike.
        """
        if self.waiting.pop(request_id, None):
            return True
        running = self.running.get(request_id)
        if running and running.filling and self.prefixes.capacity:
            running.left = True
        elif running := self._forget(request_id):
            running.handle.cancel()
        return False

    def begins(self, request_id: int) -> bool:
        """Whether it is here and has not made its first token."""
        running = self.running.get(request_id)
        return request_id in self.waiting or (running is not None and running.filling)

    def busy(self) -> bool:
        return bool(self.waiting or self.pipeline.has_non_finished_requests())

    def step(self) -> list[Event]:
        refused = [Event(request_id, [], finish="error") for request_id in self._release()]
        self.pipeline.step()
        return [*refused, *self._events()]

    def used_blocks(self) -> float:
        return float(self.pipeline.get_metrics().cache_usage) / 100 * self.blocks

    def _events(self) -> Iterator[Event]:
        for request_id, running in list(self.running.items()):
            if running.handle.can_read():
                events = [self._event(request_id, running, o) for o in running.handle.read().values()]
                if not running.left:
                    yield from events
                elif not running.filling:
                    self.cancel(request_id)
            elif running.handle.get_status() == genai.GenerationStatus.IGNORED:
                # The scheduler drops what its cache can never hold.
                self._forget(request_id)
                if not running.left:
                    yield Event(request_id, [], finish="error")

    def _event(self, request_id: int, running: Running, output: Any) -> Event:
        finish = FINISH.get(output.finish_reason)
        ids = list(output.generated_ids)
        logprobs = list(output.generated_log_probs) if running.logprobs else None
        cached = running.cached if running.filling else None
        running.filling = False
        self.prefixes.grow(request_id, ids)
        if finish:
            self._forget(request_id)
        return Event(request_id, ids, logprobs, finish, cached=cached)

    def _forget(self, request_id: int) -> Running | None:
        self.prefixes.leave(request_id)
        return self.running.pop(request_id, None)
