"""How many prompt tokens GenAI found in its prefix cache, which it does not tell.

It keeps blocks of keys and values by what came up to their end, and when room is needed gives up the one
filled or found again longest ago. The same is done here with hashes. Whole blocks are counted: GenAI may
find the beginning of one more, so the count is at most a block too low.

GenAI goes by token ids alone, whoever sent them. What is said of a prompt counts only blocks that came up
under the same salt before: nobody learns from it what others have sent.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

SALTS = 64  # remembered of one block: a client may send any number


@dataclass(slots=True)
class Held:
    """A sequence in the batch: its full blocks, the tokens after them, and those not computed yet."""

    blocks: list[int] = field(default_factory=list)
    rest: list[int] = field(default_factory=list)
    newest: list[int] = field(default_factory=list)  # has keys and values only a step later
    salt: str = ""


class PrefixBlocks:
    """Blocks that the cache holds. `capacity` 0: there is no prefix cache.

    `queries` and `hits` count prompt tokens, as vLLM's counters of these names do.
    """

    def __init__(self, capacity: int, block_tokens: int) -> None:
        self.capacity, self.block_tokens = capacity, block_tokens
        self.users: dict[int, int] = {}  # hash -> sequences that hold it
        self.idle: dict[int, int] = {}  # hash -> when it was last filled or found, as a count
        self.oldest: list[tuple[int, int]] = []  # heap of (when, hash), with some that are idle no more
        self.filled: dict[int, int] = {}
        self.salts: dict[int, dict[str, None]] = {}  # under which each block came up, the newest last
        self.clock = 0
        self.held: dict[int, Held] = {}
        self.ends: dict[int, None] = {}  # hashes of blocks that were left half full, the newest last
        self.queries = self.hits = 0

    def take(self, request_id: int, ids: list[int], salt: str = "") -> int | None:
        """A prompt comes in; how much of it this salt has there already. None without a cache."""
        if not self.capacity:
            return None
        held = self.held[request_id] = Held(salt=salt)
        matched, own = self._append(held, ids)
        self._note_end(held)
        most = len(ids) - 1  # the last is computed again, for its logits
        self.queries += len(ids)
        self.hits += min(matched * self.block_tokens, most)
        self._make_room()
        return min(own * self.block_tokens, most)

    def grow(self, request_id: int, ids: list[int]) -> None:
        if held := self.held.get(request_id):
            self._append(held, held.newest + ids[:-1])
            held.newest = ids[-1:]
            self._make_room()

    def leave(self, request_id: int) -> None:
        """Its blocks stay until the room is needed."""
        if not (held := self.held.pop(request_id, None)):
            return
        self._note_end(held)
        for block in held.blocks:
            self.users[block] -= 1
            if not self.users[block]:
                del self.users[block]
                self.idle[block] = self.filled[block]
                heapq.heappush(self.oldest, (self.filled[block], block))

    def half_full(self, ids: list[int]) -> int:
        """How much of `ids` lies in the cache up to within a block that is not full; 0 where none does."""
        before, start, size = 0, 0, self.block_tokens
        while start + size <= len(ids):
            block = hash((before, *ids[start : start + size]))
            if block not in self.users and block not in self.idle:
                break
            before, start = block, start + size
        ends = range(start + 1, min(start + size, len(ids) + 1))
        return next((end for end in ends if hash((before, *ids[start:end])) in self.ends), 0)

    def _note_end(self, held: Held) -> None:
        if held.rest:
            end = hash((held.blocks[-1] if held.blocks else 0, *held.rest))
            self.ends.pop(end, None)
            self.ends[end] = None
            if len(self.ends) > self.capacity:
                del self.ends[next(iter(self.ends))]

    def _append(self, held: Held, ids: list[int]) -> tuple[int, int]:
        """How many of the full blocks that `ids` complete were there, and how many of the same salt.

        Both are counted from the first on.
        """
        tokens, size = held.rest + ids, self.block_tokens
        matched, unbroken = 0, True
        own, own_unbroken = 0, True
        for start in range(0, len(tokens) - size + 1, size):
            before = held.blocks[-1] if held.blocks else 0
            block = hash((before, *tokens[start : start + size]))
            unbroken &= block in self.users or block in self.idle
            matched += unbroken
            own_unbroken &= unbroken and held.salt in self.salts.get(block, ())
            own += own_unbroken
            self._note_salt(block, held.salt)
            self.idle.pop(block, None)
            self.users[block] = self.users.get(block, 0) + 1
            self.clock += 1
            self.filled[block] = self.clock
            held.blocks.append(block)
        held.rest = tokens[len(tokens) // size * size :]
        return matched, own

    def _note_salt(self, block: int, salt: str) -> None:
        salts = self.salts.setdefault(block, {})
        salts.pop(salt, None)
        salts[salt] = None
        if len(salts) > SALTS:
            del salts[next(iter(salts))]

    def _make_room(self) -> None:
        most = len(self.users) + len(self.idle) + len(self.held)
        if not self.idle or most <= self.capacity:  # after each token: seldom is there anything to count
            return
        partly_filled = sum(bool(held.rest) for held in self.held.values())
        while self.idle and len(self.users) + len(self.idle) + partly_filled > self.capacity:
            when, block = heapq.heappop(self.oldest)
            if self.idle.get(block) == when:
                del self.idle[block], self.filled[block], self.salts[block]
