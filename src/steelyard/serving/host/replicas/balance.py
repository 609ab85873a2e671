"""Which replica a request goes to: where it costs the fewest tokens.

Score of a replica = tokens that it still has to compute (prompts not read, answers as long as they
probably get) + a weight (uncached_weight) times the tokens of this prompt that its prefix cache lacks. The
lowest wins; replicas that are equal share prompts by rendezvous hash, so that equal beginnings meet. Pure: no
clock, no I/O. `bench/router.py` simulates with what is here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

BLOCK_TOKENS = 64  # one hash a block
BLOCKS = 128  # of a prompt that are looked at
CACHE_BLOCKS = 8192  # that a replica is taken to hold where nobody says: 524,288 tokens, 1 MB here
OUTPUT_TOKENS = 128.0  # of an answer, before any has ended
# A token that no cache has takes time and pushes others' blocks out; the more the longer all wait, up to the
# most: docs/decisions/220 and 272.
UNCACHED_WEIGHT, UNCACHED_MOST = 4.0, 16.0
BACKLOG_STEP = 2000.0  # tokens of a replica's mean backlog for one more


def blocks_of(tokens: Sequence[int], salt: object = None) -> list[int]:
    """A hash of each whole block with all that stands before it; `salt`: whose prefix cache."""
    hashes, so_far = [], hash(salt)
    whole = min(len(tokens) // BLOCK_TOKENS, BLOCKS)
    for start in range(0, whole * BLOCK_TOKENS, BLOCK_TOKENS):
        so_far = hash((so_far, *tokens[start : start + BLOCK_TOKENS]))
        hashes.append(so_far)
    return hashes


def uncached_weight(backlogs: Sequence[float]) -> float:
    """Of a token to read, against one that waits already."""
    return min(UNCACHED_MOST, UNCACHED_WEIGHT + sum(backlogs) / len(backlogs) / BACKLOG_STEP)


def score(
    backlog_tokens: float, prompt_tokens: int, cached_tokens: int, weight: float = UNCACHED_WEIGHT
) -> float:
    """What sending a prompt there costs, in tokens; lower is better."""
    return backlog_tokens + weight * (prompt_tokens - cached_tokens)


def lowest(scores: Sequence[float], names: Sequence[int], key: int) -> int:
    """The place of the lowest score; of equal ones the one that `key` draws, the same at each call."""
    least = min(scores)
    equal = [place for place, value in enumerate(scores) if value == least]
    return max(equal, key=lambda place: hash((key, names[place])))


@dataclass(eq=False, slots=True)
class Load:
    """One request with a replica: what it still costs there."""

    replica: Replica
    unread: float  # tokens of its prompt that are neither read nor in the cache
    output: float  # tokens of its answer that are still to come, probably
    made: int = 0

    def progress(self, prompt_tokens: int, output_tokens: int) -> None:
        """What the replica has done for it; the first tokens say that the whole prompt is read."""
        read = self.unread if output_tokens else min(self.unread, float(prompt_tokens))
        ahead = min(self.output, float(output_tokens))
        self.unread -= read
        self.output -= ahead
        self.made += output_tokens
        self.replica.backlog -= read + ahead

    def leave(self) -> None:
        """The replica has let it go. May be called more than once."""
        if self in self.replica.loads:
            self.replica.loads.remove(self)
            self.replica.backlog -= self.unread + self.output
            self.unread = self.output = 0.0
        if not self.replica.loads:
            self.replica.backlog = 0.0  # exactly, or what rounding leaves decides between idle replicas


@dataclass(eq=False, slots=True)
class Replica:
    """What the router knows of one: its backlog in tokens, and the blocks that it probably holds."""

    capacity: int
    backlog: float = 0.0
    loads: set[Load] = field(default_factory=set)  # requests that it has
    blocks: OrderedDict[int, None] = field(default_factory=OrderedDict)

    def cached_tokens(self, blocks: Iterable[int]) -> int:
        count = 0
        for block in blocks:
            if block not in self.blocks:
                break
            count += 1
        return count * BLOCK_TOKENS

    def keep(self, blocks: Sequence[int]) -> None:
        """Later blocks are forgotten first: a block is of no use without those before it."""
        for block in reversed(blocks):
            self.blocks[block] = None
            self.blocks.move_to_end(block)
        while len(self.blocks) > self.capacity:
            self.blocks.popitem(last=False)


class Balance:
    """The replicas of one model, by number."""

    def __init__(self, replicas: int, capacity_blocks: int = CACHE_BLOCKS) -> None:
        self.replicas = [Replica(capacity_blocks) for _ in range(replicas)]
        self.output_tokens = OUTPUT_TOKENS

    def choose(self, able: Sequence[int], prompt_tokens: int, blocks: Sequence[int]) -> int:
        """The replica among those that are `able` (at least one)."""
        ones = [self.replicas[number] for number in able]
        weight = uncached_weight([one.backlog for one in ones])
        scores = [score(one.backlog, prompt_tokens, one.cached_tokens(blocks), weight) for one in ones]
        return able[lowest(scores, able, blocks[0] if blocks else prompt_tokens)]

    def take(self, number: int, prompt_tokens: int, blocks: Sequence[int], most_output: int) -> Load:
        """The replica has got it. Its prompt counts as held from now on: who comes next may share it."""
        one = self.replicas[number]
        unread = float(max(prompt_tokens - one.cached_tokens(blocks), 1))
        load = Load(one, unread, min(self.output_tokens, float(most_output)))
        one.backlog += load.unread + load.output
        one.loads.add(load)
        one.keep(blocks)
        return load

    def ended(self, load: Load) -> None:
        """It has its whole answer: the next ones are taken to be as long."""
        self.output_tokens += (max(load.made, 1) - self.output_tokens) * 0.05
        load.leave()

    def forget(self, number: int) -> None:
        """The replica starts again, with an empty cache."""
        self.replicas[number].blocks.clear()
