"""A planned service as the settings of vLLM or SGLang: the candidate's own, for each kind of device."""

from __future__ import annotations

import pytest

from steelyard.hardware import catalogue, named_models, published_constants
from steelyard.launch import flags_of
from steelyard.planner import (
    Constants,
    Request,
    launch_document,
    named_shape,
    plan,
    planned_service,
    planned_training,
)
from steelyard.planner.physics.sizes import USABLE_MEMORY

CONSTANTS, DEVICES = Constants.from_json(published_constants()), catalogue()
LLAMA = named_shape("llama3-70b", named_models())


def service(device, engine="auto", limit=None, **more):
    request = Request(
        shape=LLAMA, name="llama3-70b", job="serve", devices=(device,), users=64, prompt_tokens=2000,
        output_tokens=400, **more,
    )  # fmt: skip
    best = plan(request, DEVICES, CONSTANTS).plans[0]
    return best, planned_service(best, request, DEVICES, engine, limit)


PLATFORMS = {"h100-sxm": "cuda", "mi300x": "rocm", "gaudi2": "gaudi", "max-1550": "xpu"}


@pytest.mark.parametrize("device", list(PLATFORMS))
@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_the_candidate_is_what_is_launched(device, engine):
    best, way = service(device, engine)
    assert best.fits and way and way.platform == PLATFORMS[device] and way.engine == engine
    values = {name: value for name, (value, _) in way.values.items()}
    chosen = best.settings
    assert (values["tp"], values["pp"]) == (chosen["tp"], chosen["pp"])
    assert values["dp"] * way.hosts >= chosen["replicas"] + chosen["prefill_replicas"]
    assert values["max_num_seqs"] >= chosen["batch"]
    assert 0 < values["memory_share"] <= USABLE_MEMORY
    assert values["max_model_len"] >= 2400 and "kv_bytes" not in values  # no cap of a CPU
    assert all(origin for _, origin in way.values.values())
    document = launch_document(way, "llama3-70b")
    assert document["tested"] is False  # until one was run
    words = document["command"].split()
    assert set(document["origins"]) <= {word for word in words if word in flags_of(engine)}
    size = {"vllm": "--tensor-parallel-size", "sglang": "--tp-size"}[engine]
    assert words[words.index(size) + 1] == str(chosen["tp"]) and document["origins"][size].startswith("plan")


def test_the_recipes_context_memory_and_words_go_before_the_plans():
    _, way = service("h100-sxm", "vllm", 4096, memory_limit_bytes=60e9)
    assert way.values["max_model_len"] == (4096, "recipe")
    assert way.values["memory_share"] == (0.75, "recipe: resources.memory")
    told = launch_document(way, "m", ("--max-num-seqs", "7"))
    assert "--max-num-seqs 7" in told["command"] and told["origins"]["--max-num-seqs"] == "serve.args"


def test_quantised_candidates_are_made_while_loading_or_asked_for():
    _, way = service("h100-sxm", weights=("fp8",), kv_precisions=("fp8",))
    command = launch_document(way, "m")["command"]
    assert "--quantization fp8" in command and "--kv-cache-dtype fp8" in command and way.needs is None
    _, way = service("h100-sxm", weights=("int4",))
    assert "--quantization" not in launch_document(way, "m")["command"] and "4 bits" in way.needs


def test_a_short_memory_shortens_the_context_not_below_the_load():
    _, roomy = service("h200")
    _, tight = service("h200", memory_limit_bytes=45e9)
    if roomy and tight:
        longest, shortest = roomy.values["max_model_len"][0], tight.values["max_model_len"][0]
        assert 2400 <= shortest <= longest


@pytest.mark.parametrize("device", ["xeon-6980p", "tpu-v5p", "trainium2"])
def test_none_where_neither_engine_runs_the_device(device):
    assert service(device)[1] is None


def test_none_for_another_engine_or_a_training():
    assert service("h100-sxm", "openvino")[1] is None
    request = Request(shape=LLAMA, name="llama3-70b", job="sft", devices=("h100-sxm",))
    assert planned_service(plan(request, DEVICES, CONSTANTS).plans[0], request, DEVICES) is None


STAGE = {"stage": "sft", "finetuning_type": "full", "max_length": 2048, "learning_rate": 1e-5}
STAGE |= {"lora_rank": None, "lora_alpha": None, "warmup_ratio": 0.1, "weight_decay": 0.0, "tokens": 3e7}


def test_every_stage_of_a_recipe_is_exported_with_its_own_words():
    shape = named_shape("llama3-8b", named_models())
    request = Request(shape=shape, name="llama3-8b", job="sft", tokens=4e7, devices=("h100-sxm",))
    (best,) = plan(request, DEVICES, CONSTANTS).plans
    texts = STAGE | {"stage": "pt", "learning_rate": 5e-5, "max_length": 4096, "tokens": 1e7}
    adapters = STAGE | {"finetuning_type": "lora", "lora_rank": 8, "lora_alpha": 16}
    first, second = planned_training(best, request, DEVICES, (texts, adapters))
    assert (first["job"], second["job"]) == ("continue", "sft")
    assert (first["learning_rate"], second["learning_rate"]) == (5e-5, 1e-5)
    assert (first["seq_len"], second["seq_len"]) == (4096, 2048) and second["lora_rank"] == 8
    assert first.model == second.model == "llama3-8b" and first.after is None
    assert (second.after.place, second.after.steps, second.after.lora) == ("train-1", first["steps"], False)
    for stage, tokens in ((first, 1e7), (second, 3e7)):
        step = best.settings["global_batch"] * stage["seq_len"]
        assert (stage["steps"] - 1) * step < tokens * 1.001 and stage["steps"] * step > tokens * 0.999
    (alone,) = planned_training(best, request, DEVICES, (texts,))
    assert alone["learning_rate"] == 5e-5 and alone["steps"] == best.settings["steps"]


GUESSES = {
    "lookup": ({}, "--spec-method ngram --spec-tokens 4", "NGRAM --speculative-num-draft-tokens 4"),
    "model": (
        {"draft": named_shape("llama3.2-1b", named_models()), "draft_name": "llama3.2-1b"},
        "--spec-method draft_model --spec-model llama3.2-1b --spec-tokens 4",
        "STANDALONE --speculative-draft-model-path llama3.2-1b --speculative-num-steps 4"
        " --speculative-eagle-topk 1 --speculative-num-draft-tokens 5",
    ),
}


@pytest.mark.parametrize("kind", GUESSES)
def test_guesses_that_pay_are_launched_and_those_that_do_not_are_left_out(kind):
    words, vllm, sglang = GUESSES[kind]
    for engine, said in (("vllm", vllm), ("sglang", f"--speculative-algorithm {sglang}")):
        best, way = service("h100-sxm", engine, draft_tokens=4, accept=0.9, **words)
        assert best.settings["draft_tokens"] == 4
        assert said in launch_document(way, "llama3-70b")["command"]
    best, way = service("h100-sxm", draft_tokens=4, accept=0.0, **words)
    assert best.settings["draft_tokens"] == 0 and "--spec" not in launch_document(way, "m")["command"]
