"""Which replica a request goes to: properties of the score, and what a router knows of its replicas."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from steelyard.serving.host.replicas.balance import BLOCK_TOKENS, Balance, blocks_of, lowest, score

TOKENS = st.integers(0, 10_000)
PROMPT = list(range(4 * BLOCK_TOKENS + 5))


@given(TOKENS, TOKENS, TOKENS, st.integers(1, 1000))
def test_more_to_do_costs_more_and_more_in_the_cache_less(backlog, prompt, cached, more):
    assert score(backlog + more, prompt, cached) > score(backlog, prompt, cached)
    assert score(backlog, prompt, cached + more) < score(backlog, prompt, cached)


@given(st.lists(TOKENS, min_size=1, max_size=8), st.integers())
def test_the_lowest_wins_and_a_tie_is_drawn_the_same_each_time(scores, key):
    names = list(range(len(scores)))
    assert scores[lowest(scores, names, key)] == min(scores)
    assert lowest(scores, names, key) == lowest(scores, names, key)


def test_equal_replicas_share_prompts_and_one_that_leaves_moves_only_its_own():
    before = [lowest([0] * 4, [0, 1, 2, 3], key) for key in range(400)]
    assert all(before.count(place) > 40 for place in range(4))
    names = [0, 1, 3]
    after = [names[lowest([0] * 3, names, key)] for key in range(400)]
    assert all(a == b for a, b in zip(after, before, strict=True) if b != 2)


@given(st.lists(st.integers(0, 3), max_size=5 * BLOCK_TOKENS), st.integers(0, 300))
def test_equal_beginnings_have_equal_blocks(ids, at):
    other = [*ids[:at], 9, *ids[at + 1 :]]
    same = sum(a == b for a, b in zip(blocks_of(ids), blocks_of(other), strict=False))
    assert same >= min(at, len(ids)) // BLOCK_TOKENS if at < len(ids) else True
    assert blocks_of(ids, "a") != blocks_of(ids, "b") or len(ids) < BLOCK_TOKENS


@given(st.lists(st.tuples(st.integers(1, 400), st.integers(1, 50), st.booleans()), max_size=20))
def test_backlogs_are_never_negative_and_nothing_is_left_at_the_end(requests):
    balance, loads = Balance(3), []
    for prompt, output, whole in requests:
        blocks = blocks_of(PROMPT[:prompt])
        load = balance.take(balance.choose([0, 1, 2], prompt, blocks), prompt, blocks, output)
        loads.append(load)
        if whole:
            load.progress(prompt, 1)
            for _ in range(output):
                load.progress(0, 1)
            balance.ended(load)
        assert all(replica.backlog >= 0 for replica in balance.replicas)
    for load in loads:
        load.leave()
        load.leave()
    assert [replica.backlog for replica in balance.replicas] == [0.0] * 3


def test_idle_replicas_share_prompts_however_often_they_have_been_used():
    """What rounding leaves of a backlog is no reason to prefer one."""
    balance, went = Balance(4), [0] * 4
    for number in range(400):
        blocks = blocks_of(PROMPT, number)
        went[place := balance.choose(range(4), len(PROMPT), blocks)] += 1
        load = balance.take(place, len(PROMPT), blocks, 4096)
        load.progress(len(PROMPT), 1)
        load.progress(0, 7 + number % 90)
        balance.ended(load)
    assert min(went) > 40


def test_a_prompt_follows_its_beginning_until_that_replica_has_clearly_more_to_do():
    balance = Balance(2)
    blocks = blocks_of(PROMPT)
    home = balance.choose([0, 1], len(PROMPT), blocks)
    balance.take(home, len(PROMPT), blocks, 16)
    assert balance.choose([0, 1], len(PROMPT), blocks) == home
    balance.replicas[home].backlog += 10 * len(PROMPT)
    assert balance.choose([0, 1], len(PROMPT), blocks) == 1 - home
    assert balance.choose([home], len(PROMPT), blocks) == home  # the other one is away
    balance.replicas[home].backlog = 0
    balance.forget(home)
    assert balance.replicas[home].cached_tokens(blocks) == 0


def test_of_a_full_index_the_ends_of_beginnings_go_first():
    balance = Balance(1, capacity_blocks=6)
    long, other = blocks_of(PROMPT), blocks_of(PROMPT[5:])
    for blocks in (long, other):
        balance.take(0, 300, blocks, 1)
    (only,) = balance.replicas
    assert only.cached_tokens(other) == 4 * BLOCK_TOKENS and only.cached_tokens(long) == 2 * BLOCK_TOKENS
