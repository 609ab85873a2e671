"""What nobody trained: general text and questions, base against tuned, on a tiny real model."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from steelyard.gate import exact_reference
from steelyard.gate.general import general_checks, questions
from steelyard.general import general_probes, general_texts
from steelyard.model import Tokenizer


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    import tiny

    return tiny.model(tmp_path_factory.mktemp("general") / "base")


def shifted(reference, nats):
    """Each token's log-probability of the texts lower by `nats`."""

    def tuned(asked):
        arrays = [array.copy() for array in reference(asked)]
        for array in arrays[: len(general_texts())]:
            array[:-1, 0] -= nats
        return arrays

    return tuned


@pytest.fixture(scope="module")
def computed(base):
    """The reference's answers, computed once."""
    tokenizer, reference = Tokenizer(base), exact_reference(base)
    arrays = reference(questions(tokenizer))
    return tokenizer, lambda asked: arrays


def test_the_set_is_of_both_languages_and_each_question_has_one_right_option():
    chinese = [any("\u4e00" <= c <= "\u9fff" for c in text) for text in general_texts()]
    assert sum(chinese) == len(chinese) / 2 == 10
    assert len(general_probes()) == 40
    assert all(len(set(probe.options)) == len(probe.options) == 4 for probe in general_probes())


def test_a_model_that_did_not_change_has_lost_nothing(computed):
    tokenizer, reference = computed
    checks, figures = general_checks(reference, reference, tokenizer, 0.0)
    assert [check.passed for check in checks] == [True, True]
    assert checks[0].value == 0 and figures["perplexity"]["base"] == figures["perplexity"]["tuned"] > 100
    assert 0 <= figures["questions"]["base"] <= 1


@pytest.mark.parametrize(("nats", "passed"), [(0.02, True), (0.05, False)])
def test_growth_of_perplexity_is_held_against_the_limit(computed, nats, passed):
    tokenizer, reference = computed
    check = general_checks(reference, shifted(reference, nats), tokenizer, 0.03)[0][0]
    assert check.passed is passed and check.value == pytest.approx(np.expm1(nats))
    assert check.low <= check.value + 1e-9 and check.value <= check.high + 1e-9


def test_questions_that_are_lost_for_sure_fail(computed):
    """All were right before, none is now."""
    tokenizer, reference = computed

    def answering(sign):
        def answers(asked):
            arrays = [array.copy() for array in reference(asked)]
            for number, array in enumerate(arrays[len(general_texts()) :]):
                array[:-1, 0] = -1.0 if (number % 4 == 0) == sign else -5.0
            return arrays

        return answers

    checks, figures = general_checks(answering(True), answering(False), tokenizer, 0.03)
    assert checks[1].passed is False and figures["questions"] == {"base": 1.0, "tuned": 0.0}
