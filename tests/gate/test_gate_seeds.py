"""What draws say of seeds and caches; the arithmetic of directions: given answers and arrays, no server."""

from __future__ import annotations

import math
from statistics import fmean, stdev

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.gate.base.endpoint import Answer, Card, Endpoint, Token
from steelyard.gate.parity.draws import (
    CHANCE_NATS,
    LONG_TOKENS,
    LOOK_ALPHA,
    TOKENS,
    Draw,
    draw_probes,
    is_cached,
    judged,
    neutral,
)
from steelyard.gate.parity.probes import PLACES
from steelyard.gate.reference.arrays import ABOVE, LOGPROB, beginning
from steelyard.gate.reference.deviation import CONSTANT, Deviation, _direction
from steelyard.gate.reference.remembered import Remembered

PROBES = draw_probes(PLACES)
LETTERS = "bcdfghijklmopqvxyz"  # no two of them are joined by the tokenizer


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder):
    from steelyard.model import Tokenizer

    return Tokenizer(tokenizer_folder)


def even_chances(pairs):
    """Each token had an even chance, and lies anywhere in its distribution."""
    arrays = []
    for prompt, answer in pairs:
        array = np.full((len(answer) + 1, 4), math.log(0.5))
        array[:, 1] = 5
        array[:, ABOVE] = np.random.default_rng(sum(prompt) + sum(answer)).choice([0.0, 0.5], len(array))
        arrays.append(array)
    return arrays


def text_of(number, length=12):
    draw = np.random.default_rng(number)
    return "".join(draw.choice(list(LETTERS), length))


def draw(probe, seed, text, tokens=TOKENS, made=None):
    return Draw(
        probe=PROBES[probe], seed=seed, tokens=tokens, answer=Answer(text=text, completion_tokens=made)
    )


def checks(draws, tokenizer, reference=even_chances):
    drawing = judged(draws, tokenizer, reference, "exact", LOOK_ALPHA)
    return {c.name: c for c in drawing.checks}, drawing


NATS = 12 * math.log(2)  # of one answer of twelve even tokens


def repeated(pairs, length=12):
    """Two answers to each of some prompts under one seed, as (first, second) text numbers."""
    return [
        draw(place, 700 + place, text_of(number, length))
        for place, pair in enumerate(pairs)
        for number in pair
    ]


def test_one_seed_must_give_one_answer(tokenizer):
    same, _ = checks(repeated([(n, n) for n in range(6)]), tokenizer)
    assert same["seed"].passed is True and same["seed"].value == pytest.approx(6 * NATS)
    other, _ = checks(repeated([(n, n + 50) for n in range(6)]), tokenizer)
    assert other["seed"].passed is False and other["seed"].value < CHANCE_NATS
    assert "unrelated" in other["seed"].example


def test_some_agreement_beyond_chance_is_enough(tokenizer):
    """Rounding may part two answers: what they share before is what counts."""
    found, _ = checks(repeated([(0, 0), (1, 1), *((n, n + 50) for n in range(2, 6))]), tokenizer)
    assert found["seed"].passed is True and found["seed"].value > CHANCE_NATS
    found, _ = checks(repeated([(0, 0), *((n, n + 50) for n in range(1, 6))]), tokenizer)
    assert found["seed"].passed is False and found["seed"].value >= NATS - 1e-9


def test_a_model_that_is_too_sure_shows_no_seed(tokenizer):
    assert "seed" not in checks(repeated([(n, n + 50) for n in range(5)]), tokenizer)[0]  # 42 of 48 nats
    assert "seed" in checks(repeated([(n, n + 50) for n in range(6)]), tokenizer)[0]


@pytest.mark.parametrize(("alike", "passed"), [(0, True), (2, True), (3, False), (4, False)])
def test_other_seeds_must_give_other_answers(tokenizer, alike, passed):
    """To more than half of the prompts."""
    draws = [
        draw(place, seed, text_of(place if place < alike else 10 * place + seed))
        for place in range(4)
        for seed in (1, 2)
    ]
    found, _ = checks(draws, tokenizer)
    assert found["draws_differ"].passed is passed and found["draws_differ"].value == alike
    assert found["draws_differ"].limit == 2


def test_parts_of_characters_that_look_alike_are_not_the_same_answer(tokenizer):
    """Random models say many: each shows as one sign, which the tokenizer writes in three tokens."""
    parts = [
        i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i) in (b"\x81", b"\x82", b"\x83")
    ]

    def broken(seed):
        first, last = tokenizer.encode("b")[0], tokenizer.encode(LETTERS[seed])[0]
        ids = [first, *np.random.default_rng(seed).choice(parts, 8).tolist(), last]
        tokens = tuple(
            Token(text=tokenizer.decode([i]), logprob=-1.0, raw=tokenizer.token_bytes(i)) for i in ids
        )
        return Answer(text=tokenizer.decode(ids), tokens=tokens)

    draws = [
        Draw(probe=PROBES[place], seed=seed, tokens=TOKENS, answer=broken(seed))
        for place in range(4)
        for seed in (1, 2)
    ]
    assert checks(draws, tokenizer)[0]["draws_differ"].passed is True


def test_brief_and_long_answers_say_nothing_of_seeds(tokenizer):
    brief = [draw(place, seed, text_of(1, 7)) for place in range(4) for seed in (1, 2)]  # 4.9 nats
    long = [draw(place, seed, text_of(1), LONG_TOKENS) for place in range(4) for seed in (1, 2)]
    few = [draw(place, seed, text_of(1)) for place in range(2) for seed in (1, 2)]
    for draws in (brief, long, few):
        assert "draws_differ" not in checks(draws, tokenizer)[0]


def test_draws_that_one_draw_answers_count_once(tokenizer):
    """Else a cache's one answer would fail the tests of how tokens are drawn as well."""
    draws = [draw(place, seed, text_of(place, 30)) for place in range(8) for seed in range(4)]
    found, drawing = checks(draws, tokenizer)
    assert found["draws_differ"].passed is False and drawing.open_tokens == 8 * 30
    apart = [draw(place, seed, text_of(10 * place + seed, 30)) for place in range(8) for seed in range(4)]
    assert checks(apart, tokenizer)[1].open_tokens == 8 * 4 * 30


def test_tokens_that_are_always_the_likeliest_were_not_drawn(tokenizer):
    def greedy(pairs):
        arrays = even_chances(pairs)
        for array in arrays:
            array[:, ABOVE] = 0.0
        return arrays

    draws = [draw(place, seed, text_of(10 * place + seed, 30)) for place in range(8) for seed in range(4)]
    found, drawing = checks(draws, tokenizer, greedy)
    assert drawing.greedy and found["sampling"].passed is False
    assert "colder than asked" in found["sampling"].example
    found, drawing = checks(draws, tokenizer)
    assert not drawing.greedy and found["sampling"].passed is True


def test_too_few_open_tokens_say_nothing_of_the_temperature(tokenizer):
    draws = [draw(place, 1, text_of(place, 9)) for place in range(8)]  # 72
    found, drawing = checks(draws, tokenizer)
    assert "sampling" not in found and not drawing.unsure and drawing.open_tokens == 72


def test_an_answer_that_did_not_come_is_left_out(tokenizer):
    draws = [draw(0, 1, None), draw(1, 1, text_of(1, 40)), draw(2, 1, text_of(2, 60))]
    assert checks(draws, tokenizer)[1].open_tokens == 100


CACHES = {
    "longer than requested": ([(0, 1, 20, "abc", 21), (0, 2, 21, "abc", 21)], True),
    "one answer a length": ([(0, 1, 20, "abc", 3), (0, 2, 20, "abc", 3), (0, 3, 21, "xyz", 3)], True),
    "one answer to all": ([(0, 1, 20, "abc", 3), (0, 2, 20, "abc", 3), (0, 3, 21, "abcd", 4)], False),
    "all apart": ([(0, 1, 20, "abc", 3), (0, 2, 20, "bcd", 3), (0, 3, 21, "xyz", 3)], False),
    "of other prompts": ([(0, 1, 20, "abc", 3), (1, 2, 20, "abc", 3)], False),
}


@pytest.mark.parametrize("case", CACHES)
def test_a_cache_answers_by_the_fields_that_it_knows(case):
    items, cached = CACHES[case]
    assert is_cached([draw(p, s, text, tokens, made) for p, s, tokens, text, made in items]) is cached


def test_fields_that_the_model_sets_are_taken_back():
    ours = Endpoint(url="http://x", model="m", cards=(Card(id="m", owner="steelyard"),))
    assert neutral(ours, {}) == {}
    assert neutral(ours, {"top_p": 0.9, "top_k": 0, "repetition_penalty": 1.1, "min_p": None}) == {
        "top_p": 1.0,
        "repetition_penalty": 1.0,
    }
    llama = Endpoint(url="http://x", model="m", cards=(Card(id="m", owner="llamacpp"),))
    assert neutral(llama, {}) == {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}


# ------------------------------------------------------------------ directions


@given(st.lists(st.floats(-5, 5).filter(lambda x: abs(x) > 1e-3), min_size=3, max_size=30), st.floats(0.1, 9))
def test_how_sure_a_direction_is_is_students_t_of_one_sample(sums, size):
    found = _direction("d", np.array(sums), size, 100.0)
    spread = stdev(sums) / math.sqrt(len(sums))
    if spread > 0.01:  # else it is cut off
        assert found.sure == pytest.approx(fmean(sums) / spread, rel=1e-3, abs=1e-6)
    assert found.change == pytest.approx(sum(sums) / size)
    assert found.explained == pytest.approx(sum(sums) ** 2 / size / 100)


@pytest.mark.parametrize(("sums", "size"), [([], 1.0), ([2.0], 1.0), ([0.0, 0.0], 1.0), ([1.0, 2.0], 0.0)])
def test_a_direction_along_which_nothing_moves_is_none(sums, size):
    found = _direction("d", np.array(sums), size, 1.0)
    assert (found.change, found.sure, found.explained, found.is_sure) == (0.0, 0.0, 0.0, False)


def deviation(delta, blocks=10):
    count = len(delta)
    return Deviation(
        delta=np.asarray(delta), own=np.full(count, -1.0), sensitivity=np.full(count, 0.5),
        block=np.arange(count) * blocks // count, directions=(),
    )  # fmt: skip


@pytest.mark.parametrize("shift", [0.05, -0.2])
def test_a_constant_is_found_with_its_size(shift):
    noise = np.random.default_rng(0).standard_normal(400) * 0.02
    found = deviation(shift + noise).tried(CONSTANT, np.ones(400)).best
    assert found.name == CONSTANT and found.is_sure and found.explained > 0.8
    assert found.change == pytest.approx(shift, rel=0.05) and np.sign(found.sure) == np.sign(shift)


def test_noise_has_no_direction_and_one_token_far_off_makes_none():
    noise = np.random.default_rng(1).standard_normal(400) * 0.02
    assert not deviation(noise).tried(CONSTANT, np.ones(400)).best.is_sure
    noise[7] = 50.0  # cut to four standard deviations
    found = deviation(noise).tried(CONSTANT, np.ones(400)).best
    assert not found.is_sure and abs(found.change) < 0.01


# ------------------------------------------------------------------ arrays


def numbered(pairs):
    """What a reference gives, with prompt and answer themselves as numbers."""
    arrays = []
    for prompt, answer in pairs:
        before = [sum(prompt) * 100 + sum(answer[:i]) for i in range(len(answer) + 1)]
        array = np.array([[n + 0.5, n, -n, 0.5] for n in before], float)
        array[-1, [LOGPROB, ABOVE]] = 0.0
        arrays.append(array)
    return arrays


IDS = st.lists(st.integers(0, 2), max_size=4)


@given(st.lists(st.tuples(st.lists(st.integers(1, 2), min_size=1, max_size=2), IDS), min_size=1, max_size=8))
@settings(max_examples=60)
def test_what_is_remembered_is_what_would_be_computed(pairs):
    computed = []

    def reference(wanted):
        computed.extend(wanted)
        return numbered(wanted)

    remembered = Remembered(reference)
    half = len(pairs) // 2
    for part in (pairs[:half], pairs[half:], pairs):
        for own, expected in zip(remembered(part), numbered(part), strict=True):
            assert np.array_equal(own, expected)
    assert len(computed) == len(set(computed)) <= len(pairs)


def test_the_beginning_of_an_array_does_not_change_the_whole():
    (whole,) = numbered([([1], [2, 3])])
    before = whole.copy()
    part = beginning(whole, 1)
    assert part.tolist() == numbered([([1], [2])])[0].tolist() and np.array_equal(whole, before)
