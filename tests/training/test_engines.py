"""Which engine trains: the first that can; a clear error where none can or the one that could is missing."""

from __future__ import annotations

import pytest

from steelyard.errors import WrongUse
from steelyard.training import METHODS
from steelyard.training.engines import CAPABILITIES, ENGINES, TrainNeed, choose, engine_of

LLAMA = TrainNeed(family="llama")


def test_every_engine_has_a_capability_of_its_own():
    assert list(ENGINES) == list(CAPABILITIES)
    assert CAPABILITIES["own"]().stages == tuple(METHODS)


@pytest.mark.parametrize("finetuning_type", ["lora", "full"])
@pytest.mark.parametrize("stage", ["sft", "pt"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_the_own_loop_trains_what_it_can(family, stage, finetuning_type):
    need = TrainNeed(family=family, stage=stage, finetuning_type=finetuning_type)
    assert choose(need) == ("own", "the fastest on a CPU for this family")
    assert choose(need, "own") == ("own", "asked for")


@pytest.mark.parametrize(
    "more, reason",
    [
        ({"family": "gpt_oss"}, "models of the family 'gpt_oss'"),
        ({"stage": "dpo"}, "stage: dpo"),
        ({"finetuning_type": "dora"}, "finetuning_type: dora"),
        ({"device": "cuda"}, "device: cuda"),
        ({"processes": 2}, "2 processes"),
    ],
)
def test_the_one_that_is_named_and_cannot_says_what_it_lacks(more, reason):
    with pytest.raises(WrongUse, match="the training engine own has no ") as caught:
        choose(TrainNeed(**{"family": "llama", **more}), "own")
    assert caught.value.message.endswith(reason) and "auto" in caught.value.hint


def test_a_name_that_is_none_is_answered_with_those_there_are():
    with pytest.raises(WrongUse, match="'axolotl' is no training engine") as caught:
        engine_of("axolotl")
    assert caught.value.hint == f"one of auto, {', '.join(ENGINES)}"
