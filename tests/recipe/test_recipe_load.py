"""Recipes in, one clear error or the checked values out."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from steelyard import recipe
from steelyard.errors import WrongUse

FULL = """\
name: support-desk
model_name_or_path: demo
goal:
  budget: 300 CNY
  deadline: 8h
  latency: {ttft_p95: 800ms, tpot_p95: 60ms}
  load: {users: 40, prompt_tokens: 700, output_tokens: 200}
data:
  - {path: tickets/*.jsonl, format: messages, ability: support}
  - {path: 工单.xlsx, ability: 客服, sheet: 一月, map: {user: 问题, assistant: 回复, thread: 工单号}}
mix: {support: 0.7, 客服: 0.3}
clean: {dedup: exact, pii: mask, test_share: 10%}
train:
  - stage: sft
    finetuning_type: lora
    lora_r: 16
    learning_rate: 1e-4
    cutoff_len: 2048
    max_steps: auto
  - {stage: continue, finetuning_type: full}
compress: int8
gate:
  abilities: {support: {eval: evals/s.jsonl, min: 0.90}, 客服: {min: 80%}}
  forget: {support: 2%}
serve: {port: 8123, max_model_len: 8192, api_key: sk-secret}
trust: guarded
seed: 7
"""


@pytest.fixture
def write(tmp_path: Path):
    def written(text: str | bytes) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return written


def test_every_word_arrives(write) -> None:
    made = recipe.load(write(FULL))
    assert (made.name, made.model, made.seed) == ("support-desk", "demo", 7)
    assert made.goal.budget.usd == pytest.approx(300 / 7.189)
    assert (made.goal.deadline_s, made.goal.ttft_s, made.goal.tpot_s) == (28800, {"p95": 0.8}, {"p95": 0.06})
    assert made.data[1].map == {"user": "问题", "assistant": "回复", "thread": "工单号"}
    assert made.abilities == ("support", "客服")
    assert made.clean.test_share == 0.1 and made.clean.enabled
    first, second = made.train
    assert (first.lora_rank, first.max_length, first.max_steps, first.seed) == (16, 2048, None, 7)
    assert (second.stage, second.finetuning_type) == ("pt", "full")
    assert made.compress.weights == "int8"
    assert made.gate.abilities["客服"].min == 0.8 and made.gate.forget == {"support": 0.02}
    assert made.serve.served_model_name == "support-desk"
    assert made.trust.level == "guarded"


def test_each_value_has_an_origin(write) -> None:
    made = recipe.load(write(FULL), ["train.0.lora_r=8", "serve.port=9000"])
    values = recipe.effective(made)
    assert values.keys() == made.origins.keys()
    assert made.origins["train.0.learning_rate"] == "recipe.yaml:17"
    assert made.origins["model"] == "recipe.yaml:2"
    assert (values["train.0.lora_rank"], made.origins["train.0.lora_rank"]) == (8, "--set")
    assert made.origins["train.0.packing"] == "plan"
    assert made.origins["serve.host"] == "default"


def test_a_key_is_never_shown_or_hashed(write) -> None:
    made = recipe.load(write(FULL))
    other = recipe.load(write(FULL.replace("sk-secret", "sk-other")))
    assert "sk-secret" not in str(recipe.effective(made))
    assert made.hash == other.hash


def test_hash_follows_values_and_not_their_spelling(write, tmp_path) -> None:
    one = recipe.load(write("model: demo\ntrain: []\n")).hash
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "recipe.yaml").write_text("# a comment\ntrain: []\n\nmodel:   demo\nseed: 0\n")
    assert recipe.load(folder / "recipe.yaml").hash == one
    assert recipe.load(write("model: demo\ntrain: []\nseed: 1\n")).hash != one


def test_words_that_came_later_leave_the_hash_of_an_approved_recipe(write) -> None:
    made = recipe.load(write("model: demo\ntrain: []\n"))
    named = {word for word in recipe.effective(made) if word.startswith("trust.")}
    assert named == {"trust.level", "trust.key_file", "trust.recipients"}

    def hash_of(words):
        return recipe.load(write(f"model: demo\ntrain: []\ntrust: {{level: guarded{words}}}\n")).hash

    assert hash_of(", cipher: aes-256-gcm") == hash_of("")
    later = (", base_sha256: [" + "a" * 64 + "]", ", base_signers: [p.pub]", ", cipher: sm4-gcm")
    assert len({hash_of(words) for words in ("", *later)}) == 4


def test_replicas_of_a_table_that_never_come_or_go(write) -> None:
    served = [
        recipe.load(write(f"model: demo\ntrain: []\nserve: {{replicas: {text}}}\n"))
        for text in ("1", "{max: 1}", "{min: 1, max: 1}", "{max: 2}")
    ]
    assert [one.serve.scale for one in served[:3]] == [None] * 3 and served[3].serve.scale.min == 1
    assert len({one.hash for one in served[:3]}) == 1


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_of_a_recipe(write, codec: str) -> None:
    assert recipe.load(write(FULL.encode(codec))).abilities == ("support", "客服")


def test_short_forms(write) -> None:
    made = recipe.load(write("model: demo\ntrain: []\nclean: none\ntrust: {level: sealed}\n"))
    assert (made.train, made.clean.enabled, made.trust.level) == ((), False, "sealed")
    assert recipe.effective(made)["clean"] == "none"
    made = recipe.load(write("model: demo\ndata: [{path: a.jsonl}]\nserve: {replicas: 1, tide: false}\n"))
    assert made.train == (recipe.Stage(),)


def test_what_has_no_effect_is_said(write) -> None:
    text = (
        "model: demo\ntrain: []\ngate: {abilities: {support: {min: 0.9}}}\ngoal: {latency: {ttft_p95: 1s}}\n"
    )
    (quality,) = recipe.load(write(text)).notes  # goal.latency orders the forms that the gate tries
    assert "no quality gate" in quality


PLAN = """\
name: desk
model: demo
train: []
goal:
  budget: 900000 JPY
  rate: 0.0067
  latency: {ttft: 800ms, tpot: 60ms, percentile: 99}
  load: {arrival_rate: 90/min, burstiness: 4.0, prompt_tokens: 700}
resources:
  own:
    - {device: xeon-8480plus, hosts: 4, sockets: 2}
    - {device: gaudi2, hosts: 2, per_host: 8, price: 8000 USD}
    - max-1550
  terms: {years: 4.0, used: 80%, power_price: 0.8 CNY/kWh, staff_price: 50 USD/h}
  providers: [aws]
  power: 20 kW
  memory: ..64GB
"""


def test_words_of_the_plan_arrive(write) -> None:
    made = recipe.load(write(PLAN))
    goal, resources = made.goal, made.resources
    assert goal.budget.usd == pytest.approx(900_000 * 0.0067)
    assert (goal.ttft_s, goal.tpot_s) == ({"p99": 0.8}, {"p99": 0.06})
    assert (goal.load.arrival_per_s, goal.load.burstiness, goal.load.users) == (1.5, 4.0, 1)
    assert [(o.device, o.hosts, o.devices) for o in resources.own] == [
        ("xeon-8480plus", 4, 8),
        ("gaudi2", 2, 16),
        ("max-1550", 1, 1),
    ]
    assert resources.own[1].price.usd == 8000
    assert (resources.terms.years, resources.terms.used_share) == (4.0, 0.8)
    assert resources.terms.electricity_usd_per_kwh == pytest.approx(0.8 / 7.189)
    assert resources.terms.staff_usd_per_h == 50
    assert (resources.providers, resources.power_w, resources.memory_bytes) == (("aws",), 20e3, 64 * 10**9)


def test_what_ones_own_hardware_costs_is_shown_with_its_origin(write) -> None:
    made = recipe.load(write(PLAN))
    values = recipe.effective(made)
    assert values["resources.terms.pue"] == 1.3 and made.origins["resources.terms.pue"] == "default"
    assert values["resources.terms.power_price"].endswith("USD/kWh")
    assert made.origins["resources.terms.used"] == "recipe.yaml:14"
    assert values["goal.load.arrival_rate"] == 1.5 and values["resources.own.1.price"] == "8000 USD"


@pytest.mark.parametrize(
    ("text", "currency", "usd"),
    [
        ("$50", "USD", 50),
        ("50", "USD", 50),
        ("300 元", "CNY", 300 / 7.189),
        ("1,000 EUR", "EUR", 1000 / 0.924),
        ("9000 JPY at 0.0067", "JPY", 60.3),
        ("9000JPY@0.0067 USD", "JPY", 60.3),
        ("300 CNY at 0.14", "CNY", 42),
    ],
)
def test_money_in_any_currency(text: str, currency: str, usd: float) -> None:
    made = recipe.money(text)
    assert made.currency == currency and made.usd == pytest.approx(usd)


BASE = "name: desk\nmodel: demo\ndata: [{path: a.jsonl, ability: support}]\n"
BAD = [
    # text, code, line, field, part of the message, part of the hint
    ("trian: []\n", "unknown_key", 4, "trian", "unknown key trian", "did you mean train?"),
    (
        "train: [{learning_rat: 1}]\n",
        "unknown_key",
        4,
        "train.0.learning_rat",
        "under train[]",
        "learning_rate?",
    ),
    (
        "train: [{save_strategy: steps}]\n",
        "borrowed",
        4,
        "train.0.save_strategy",
        "save_strategy",
        "save_steps: 100",
    ),
    ("lora_rank: 8\n", "unknown_key", 4, "lora_rank", "at the top", "belongs under train[]"),
    ("训练: []\n", "unknown_key", 4, "训练", "训练", "did you mean train?"),
    ("zzzz: 1\n", "unknown_key", 4, "zzzz", "zzzz", "example: name:"),
    (
        "train: [{lora_rank: sixteen}]\n",
        "wrong_type",
        4,
        "train.0.lora_rank",
        "whole number",
        "lora_rank: 16",
    ),
    ("train: [{lora_rank: 1.5}]\n", "wrong_type", 4, "train.0.lora_rank", "a number", "lora_rank: 16"),
    ("train: [{packing: 1}]\n", "wrong_type", 4, "train.0.packing", "true or false", "packing: true"),
    ("serve: {access_log: off}\n", "wrong_type", 4, "serve.access_log", "true or false", "write false"),
    ("train: {stage: sft}\n", "wrong_type", 4, "train", "a list", "example: train: [{stage: sft}]"),
    ("serve: 8000\n", "wrong_type", 4, "serve", "a table", "serve: {port: 8000}"),
    ("seed: 2026-11-24\n", "wrong_type", 4, "seed", "text", "seed: 0"),
    ("serve: {port: 99999}\n", "bad_value", 4, "serve.port", "65535", "port: 8000"),
    ("train: [{learning_rate: .nan}]\n", "bad_value", 4, "train.0.learning_rate", "finite", "0.0002"),
    ("train: [{num_train_epochs: 0}]\n", "bad_value", 4, "train.0.num_train_epochs", "greater", "epochs: 2"),
    ("train: [{stage: sfft}]\n", "bad_value", 4, "train.0.stage", "one of sft, pt", "did you mean sft?"),
    ("goal: {budget: 50 bananas}\n", "bad_value", 4, "goal.budget", "money", "50 USD"),
    ("goal: {budget: 5000 JPY}\n", "impossible_pair", 4, "goal.budget", "no rate is known", "rate: 0.0067"),
    ("goal: {budget: 5 USD, rate: 2.0}\n", "impossible_pair", 4, "goal.rate", "another currency", "delete"),
    (
        "goal: {latency: {ttft: 1s, ttft_p95: 1s}}\n",
        "impossible_pair",
        4,
        "goal.latency.ttft",
        "twice",
        "ttft_p95",
    ),
    ("goal: {latency: {percentile: 95}}\n", "impossible_pair", 4, "goal.latency.percentile", "ttft", "800ms"),
    (
        "goal: {load: {burstiness: 2.0}}\n",
        "impossible_pair",
        4,
        "goal.load.burstiness",
        "arrival_rate",
        "2/s",
    ),
    ("goal: {load: {arrival_rate: soon}}\n", "bad_value", 4, "goal.load.arrival_rate", "rate", "2/s"),
    ("resources: {own: [{hosts: 2}]}\n", "missing_key", 4, "resources.own.0.device", "missing", "gaudi2"),
    (
        "resources: {own: [{device: gaudi2, sockets: 2, per_host: 8}]}\n",
        "impossible_pair",
        4,
        "resources.own.0.sockets",
        "both count",
        "keep one",
    ),
    (
        "resources: {own: [{device: gaudi2, host: 2}]}\n",
        "unknown_key",
        4,
        "resources.own.0.host",
        "host",
        "hosts",
    ),
    ("resources: {power: much}\n", "bad_value", 4, "resources.power", "power", "20 kW"),
    ("resources: {memory: 24GB..}\n", "bad_value", 4, "resources.memory", "least", "64GB"),
    ("resources: {terms: {used: 0}}\n", "bad_value", 4, "resources.terms.used", "used", "60%"),
    (
        "resources: {terms: {power_price: 1 XYZ/kWh}}\n",
        "bad_value",
        4,
        "resources.terms.power_price",
        "XYZ",
        "0.08 USD/kWh",
    ),
    ("goal: {budget: -5 USD}\n", "bad_value", 4, "goal.budget", "money", "50 USD"),
    ("goal: {deadline: 8 parsecs}\n", "bad_value", 4, "goal.deadline", "not a time", "deadline: 8h"),
    ("goal: {deadline: 1.2.3h}\n", "bad_value", 4, "goal.deadline", "not a time", "deadline: 8h"),
    ("goal: {deadline: 0s}\n", "bad_value", 4, "goal.deadline", "above 0", "deadline: 8h"),
    ("gate: {tolerance: wide}\n", "bad_value", 4, "gate.tolerance", "wide", "0.02"),
    ("gate: {judge: {model: m}}\n", "missing_key", 4, "gate.judge.url", "missing", "url: http"),
    ("gate: {judge: {url: x, modle: y}}\n", "unknown_key", 4, "gate.judge.modle", "modle", "model"),
    ("gate: {judge: {url: x, api_key: sk-1}}\n", "bad_value", 4, "gate.judge.api_key", "env:NAME", "env:"),
    (
        "gate: {abilities: {support: {compare: bleu}}}\n",
        "bad_value",
        4,
        "gate.abilities.support.compare",
        "chrf",
        "json",
    ),
    ("gate: {tolerance: 80}\n", "bad_value", 4, "gate.tolerance", "between 0 and 1", "0.02"),
    ("clean: {test_share: 0.9}\n", "bad_value", 4, "clean.test_share", "0.5", "test_share: 0.1"),
    ("trust: secret\n", "bad_value", 4, "trust.level", "open, guarded, sealed", "guarded"),
    ("serve: {served_model_name: ''}\n", "bad_value", 4, "serve.served_model_name", "at least 1", "desk"),
    ("goal:\n", "no_value", 4, "goal", "no value", "budget: 50 USD"),
    ("model: other\n", "duplicate_key", 4, "model", "twice", "keep one"),
    ("model_name_or_path: x\n", "duplicate_key", 4, "model_name_or_path", "same thing", "keep model"),
    ("train: [{lora_r: 8, lora_rank: 8}]\n", "duplicate_key", 4, "train.0.lora_r", "same", "keep lora_rank"),
    ("train: [{stage: sft, stage: sft}]\n", "duplicate_key", 4, "stage", "twice", "keep one"),
    ("serve:\n\tport: 1\n", "tab", 5, None, "tab", "two spaces"),
    ("train: [\n", "syntax", None, None, "not YAML", "example:"),
    ("---\nname: b\n", "syntax", None, None, "more than one document", "---"),
    ("serve: !evil {port: 1}\n", "tag", 4, "serve", "!evil", "delete"),
    ("seed: !!python/object:os.system x\n", "tag", 4, "seed", "python", "delete"),
    ("mix: {1: 2}\n", "key_type", 4, "mix.1", "key 1", '"1":'),
    ("mix: {suport: 1}\n", "unknown_ability", 4, "mix.suport", "suport", "did you mean support?"),
    ("mix: {support: 0}\n", "impossible_pair", 4, "mix", "every weight", "support: 1"),
    ("gate: {abilities: {客服: {min: 1}}}\n", "unknown_ability", 4, "gate.abilities.客服", "客服", "support"),
    ("mix: {poems: 1}\n", "unknown_ability", 4, "mix.poems", "poems", "abilities of the data: support"),
    ("gate: {forget: {x: 1%}}\n", "unknown_ability", 4, "gate.forget.x", "x", "support"),
    (
        "train: [{finetuning_type: full, lora_rank: 8}]\n",
        *("impossible_pair", 4, "train.0.lora_rank", "full has no lora_rank", "finetuning_type: lora"),
    ),
    ("compress: int8\ngate: {parity: exact}\n", "impossible_pair", 5, "gate.parity", "int8", "parity: auto"),
    (
        "trust: guarded\nresources: {hosts: [10.0.0.1]}\n",
        *("impossible_pair", 5, "resources.hosts", "gradients", "trust: open"),
    ),
    ("resources: {hosts: [a, a]}\n", "impossible_pair", 4, "resources.hosts", "twice", "once"),
    (
        "resources: {ray: a}\ntrain: [{processes: 2}]\n",
        *("impossible_pair", 5, "train.0.processes", "one machine", "delete processes"),
    ),
    ("trust: {level: open, key_file: k}\n", "impossible_pair", 4, "trust.key_file", "open", "guarded"),
    (
        "goal: {load: {prompt_tokens: 900}}\nserve: {max_model_len: 512}\n",
        *("impossible_pair", 5, "serve.max_model_len", "964", "max_model_len"),
    ),
    ("train: [{stage: prefer}]\n", "bad_value", 4, "train.0.stage", "prefer", "sft"),
    ("compress: {prune: 1.2}\n", "bad_value", 4, "compress.prune", "between 0 and 1", "prune: 0.7"),
    ("compress: {prune: 0}\n", "bad_value", 4, "compress.prune", "leaves nothing", "prune: 0.7"),
    (
        "train: []\ncompress: {prune: 0.7}\n",
        *("impossible_pair", 5, "compress.prune", "no tuned model", "delete compress.prune"),
    ),
    (
        "compress: {heal_epochs: 2}\n",
        *("impossible_pair", 4, "compress.heal_epochs", "goes with prune", "prune: 0.7"),
    ),
    ("train: [{stage: distil}]\n", "impossible_pair", 4, "train.0.stage", "no teacher", "models/larger"),
    ("train: [{stage: ppo}]\n", "not_yet", 4, "train.0.stage", "ppo", "grpo"),
    (
        "train: [{stage: distil, teacher: x, beta: 0.5}]\n",
        *("impossible_pair", 4, "train.0.beta", "lmbda above 0", "lmbda: 1.0"),
    ),
    (
        "train: [{stage: distil, teacher: x, lmbda: 1, loss_top_k: 8}]\n",
        *("impossible_pair", 4, "train.0.loss_top_k", "whole distribution", "delete"),
    ),
    (
        "train: [{stage: distil, teacher: x, lmbda: 1, beta: 2}]\n",
        *("impossible_pair", 4, "train.0.beta", "between 0 and 1", "1.0"),
    ),
    ("train: [{stage: distil, teacher: x, lmbda: 2}]\n", "bad_value", 4, "train.0.lmbda", "1", "1.0"),
    ("train: [{stage: rm}, {}]\n", "impossible_pair", 4, "train.0.stage", "no stage", "last stage"),
    (
        "train: [{center_rewards_coefficient: 1}]\n",
        *("impossible_pair", 4, "train.0.center_rewards_coefficient", "stage rm", "delete"),
    ),
    (
        "train: [{stage: pt, metric_for_best_model: score}]\n",
        *("impossible_pair", 4, "train.0.metric_for_best_model", "teaches texts", "eval_loss"),
    ),
    ("goal: {on_miss: later}\n", "bad_value", 4, "goal.on_miss", "shrink", "shrink"),
    ("train: [{stage: grpo, num_generations: 1}]\n", "bad_value", 4, "train.0.num_generations", "2", "8"),
    (
        "train: [{stage: grpo, loss_type: sigmoid}]\n",
        "impossible_pair",
        4,
        "train.0.loss_type",
        "sigmoid",
        "dapo",
    ),
    (
        "train: [{}, {adapter_name_or_path: a}]\n",
        *("impossible_pair", 4, "train.1.adapter_name_or_path", "first stage", "leave it out"),
    ),
    (
        "train: [{adapter_name_or_path: a, lora_rank: 8}]\n",
        *("impossible_pair", 4, "train.0.lora_rank", "its own", "delete lora_rank"),
    ),
    ("train: [{stage: dpo, beta: 0}]\n", "impossible_pair", 4, "train.0.beta", "above 0", "0.1"),
    ("train: [{stage: sft, top_p: 1}]\n", "impossible_pair", 4, "train.0.top_p", "grpo", "delete top_p"),
    (
        "train: [{stage: grpo, per_device_train_batch_size: 4, gradient_accumulation_steps: 3}]\n",
        *("impossible_pair", 4, "train.0.gradient_accumulation_steps", "groups of num_generations 8", "2"),
    ),
    (
        "train: [{stage: grpo}]\ngate: {abilities: {support: {compare: judge}}}\n",
        *("impossible_pair", 4, "train.0.stage", "judge", "compare: text"),
    ),
    (
        "train: [{stage: pt, beta: 1}]\n",
        "impossible_pair",
        4,
        "train.0.beta",
        "orpo and grpo",
        "delete beta",
    ),
    (
        "train: [{stage: dpo, packing: true}]\n",
        *("impossible_pair", 4, "train.0.packing", "never packed", "delete packing"),
    ),
    (
        "train: [{stage: dpo, overlong: split}]\n",
        *("impossible_pair", 4, "train.0.overlong", "none is split", "overlong: drop"),
    ),
    (
        "train: [{stage: pt, train_from_scratch: true}]\n",
        *("impossible_pair", 4, "train.0.train_from_scratch", "full", "finetuning_type: full"),
    ),
    ("train: [{stage: dpo, loss_type: kto}]\n", "impossible_pair", 4, "train.0.loss_type", "kto", "sigmoid"),
    ("train: [{stage: dpo, loss_type: x}]\n", "bad_value", 4, "train.0.loss_type", "'x'", "sigmoid"),
    (
        "train: [{stage: dpo, loss_type: exo_pair}]\n",
        *("impossible_pair", 4, "train.0.loss_type", "label_smoothing", "0.001"),
    ),
    (
        "train: [{stage: dpo, loss_weights: [1, 2]}]\n",
        *("impossible_pair", 4, "train.0.loss_weights", "2 loss_weights for 1", "loss_type"),
    ),
    (
        "train: [{stage: kto, per_device_train_batch_size: 1}]\n",
        *("impossible_pair", 4, "train.0.per_device_train_batch_size", "too few", "4"),
    ),
    ("train: [{finetuning_type: qlora}]\n", "not_yet", 4, "train.0.finetuning_type", "qlora", "lora"),
    ("clean: {dedup: semantic}\n", "not_yet", 4, "clean.dedup", "semantic", "near"),
    ("clean: {decontaminate: true}\n", "not_yet", 4, "clean.decontaminate", "decontaminate", "delete"),
    ("serve: {tide: true}\n", "not_yet", 4, "serve.tide", "tide", "delete"),
    ("serve: {replicas: 0}\n", "bad_value", 4, "serve.replicas", "replicas", "example"),
    ("serve: {engine: llamacpp}\n", "not_yet", 4, "serve.engine", "llamacpp", "--engine"),
    ("serve: {args: [--seed, 1]}\n", "impossible_pair", 4, "serve.args", "engine: vllm", "engine"),
    ("serve: {engine: vllm, replicas: 2}\n", "impossible_pair", 4, "serve.replicas", "replicas", "plan"),
    ("serve: {engine: vllm, args: x}\n", "wrong_type", 4, "serve.args", "a list", "example"),
    (
        "compress: int8\nserve: {engine: sglang}\n",
        *("impossible_pair", 4, "compress.weights", "int8", "--quantization"),
    ),
    ("compress: {weights: fp8}\n", "not_yet", 4, "compress.weights", "fp8", "int4"),
    ("compress: {weights: [int8, int9]}\n", "bad_value", 4, "compress.weights", "int9", "example"),
    ("compress: [int8, int8]\n", "bad_value", 4, "compress.weights", "once", "example"),
    ("train: []\ncompress: [int8, bf16]\n", "impossible_pair", 5, "compress.weights", "no gate", "int8"),
    ("serve: {draft: small}\n", "impossible_pair", 4, "serve.draft", "speculative", "draft"),
    ("resources: {gpu: 0..8}\n", "not_yet", 4, "resources.gpu", "gpu", "CPU"),
]


@pytest.mark.parametrize(
    ("text", "code", "line", "field", "message", "hint"), BAD, ids=[b[0][:40] for b in BAD]
)
def test_one_clear_error(write, text, code, line, field, message, hint) -> None:
    path = write(BASE + text)
    with pytest.raises(WrongUse) as caught:
        recipe.load(path)
    error = caught.value
    assert error.code == f"recipe.{code}"
    assert message in error.message
    assert hint in error.hint
    assert error.where.file == str(path)
    assert error.where.field == field
    if line:
        assert error.where.line == line


SOURCES = [
    ("{path: manual/*.docx}", "not_yet"),
    ("{path: a.csv, sheet: one}", "impossible_pair"),
    ("{path: a.jsonl, format: messages, map: {user: q, assistant: a}}", "impossible_pair"),
    ("{path: a.csv, map: {user: q}}", "impossible_pair"),
    ("{path: a.csv, map: {user: q, assistant: a, text: t}}", "impossible_pair"),
    ("{path: a.csv, map: {column: q}}", "bad_value"),
    ("{path: a.csv, weight: 0}", "bad_value"),
    ("{ability: a}", "missing_key"),
    ("a.jsonl", "wrong_type"),
]


@pytest.mark.parametrize(("source", "code"), SOURCES)
def test_bad_sources(write, source: str, code: str) -> None:
    with pytest.raises(WrongUse) as caught:
        recipe.load(write(f"model: demo\ndata:\n  - {source}\n"))
    assert caught.value.code == f"recipe.{code}"
    assert caught.value.where.line == 3


# Each line repeats the one above ten times: 100,000 values of 200 bytes.
LAUGHS = "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 6))
FILES = [
    (b"", "empty", None),
    (b"# only a comment\n", "empty", None),
    (b"- a\n- b\n", "not_a_table", 1),
    (b"demo\n", "not_a_table", 1),
    ("name: 客服\nmodel: demo\n".encode("gb18030"), "undecodable", 1),
    (b"model: demo\nname: \xff\xfe\n", "undecodable", 2),
    (b"model: demo\n", "missing_key", None),
    (b"data: [{path: a.jsonl}]\n", "missing_key", None),
    (b"model: demo\ndata: []\n", "missing_key", 2),
    (LAUGHS.encode(), "anchors", None),
    (b"x" * 1_000_001, "too_big", None),
    (b"model: \x00demo\n", "syntax", None),
]


@pytest.mark.parametrize(("data", "code", "line"), FILES)
def test_bad_files(write, data: bytes, code: str, line: int | None) -> None:
    with pytest.raises(WrongUse) as caught:
        recipe.load(write(data))
    assert caught.value.code == f"recipe.{code}"
    assert line is None or caught.value.where.line == line
    assert caught.value.hint


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", '"a\\nb"', "x" * 201, "''"])
def test_a_name_is_one_folder(write, name: str) -> None:
    with pytest.raises(WrongUse) as caught:
        recipe.load(write(f"name: {name}\nmodel: demo\ntrain: []\n"))
    assert (caught.value.code, caught.value.where.field) == ("recipe.bad_value", "name")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="there is no recipe"):
        recipe.load(tmp_path)
    (tmp_path / "steelyard.yaml").write_text("model: demo\ntrain: []\n")
    assert recipe.load(tmp_path).name == "steelyard"


SETTINGS = [
    ("train.0.lerning_rate=1", "unknown_key"),
    ("train.0.lora_rank=many", "wrong_type"),
    ("train.9.lora_rank=8", "set"),
    ("train.first.lora_rank=8", "set"),
    ("name.first=8", "set"),
    ("seed", "set"),
    ("=3", "set"),
    ("seed=[1", "syntax"),
    ("serve.tide=true", "not_yet"),
    ("train.0.finetuning_type=full", "impossible_pair"),
]


@pytest.mark.parametrize(("setting", "code"), SETTINGS)
def test_bad_settings_point_at_set(write, setting: str, code: str) -> None:
    with pytest.raises(WrongUse) as caught:
        recipe.load(write(BASE + "train: [{lora_rank: 4}]\n"), [setting])
    assert caught.value.code == f"recipe.{code}"
    if code != "impossible_pair":  # the other half of the pair stands in the file
        assert caught.value.where.file == "--set"


def test_settings_make_what_is_missing(write) -> None:
    path = write(BASE)
    made = recipe.load(
        path, ["goal.load.users=4", "train=[{lora_r: 8}]", "data.1.path=b.jsonl", "gate.parity=off"]
    )
    assert made.goal.load.users == 4
    assert made.train[0].lora_rank == 8
    assert [source.path for source in made.data] == ["a.jsonl", "b.jsonl"]


def test_the_schema_knows_every_field(write) -> None:
    document = recipe.schema()
    assert set(document["properties"]) == {f.name for f in fields(recipe.Recipe)} - {
        *("path", "root", "origins", "settings", "notes", "candidates"),
    }
    stage = document["$defs"]["StageTable"]["properties"]
    assert set(stage) == {f.name for f in fields(recipe.Stage)}
    assert all(value.get("description") for value in stage.values())


CHOICES = """\
model: {auto: [demo, models/larger]}
data: [{path: a.jsonl, ability: support}]
compress: {weights: [int4, int8, bf16], max_quality_loss: 1%}
serve:
  replicas: 2
  engine: auto
  speculative: lookup
  adapters: {refunds: adapters/refunds}
  keys: keys.json
  queue: 30s
"""


def test_choices_and_the_words_of_serving_arrive(write) -> None:
    made = recipe.load(write(CHOICES))
    assert (made.model, made.candidates) == ("auto", ("demo", "models/larger"))
    assert made.compress.weights == ("int4", "int8", "bf16")
    assert made.compress.max_quality_loss == 0.01
    assert (made.serve.replicas, made.serve.speculative, made.serve.queue) == (2, "lookup", 30.0)
    assert made.serve.adapters == {"refunds": "adapters/refunds"} and made.serve.keys == "keys.json"
    values = recipe.effective(made)
    assert values.keys() == made.origins.keys()
    assert (
        made.origins["model.auto.1"] == "recipe.yaml:1"
        and made.origins["compress.weights.0"] == "recipe.yaml:3"
    )


@pytest.mark.parametrize(
    "model", ["{auto: []}", "{auto: [demo, demo]}", "{auto: [auto]}", "{best: [demo]}", "[demo]"]
)
def test_a_list_of_candidates_is_checked(write, model: str) -> None:
    with pytest.raises(WrongUse) as caught:
        recipe.load(write(f"model: {model}\ndata: [{{path: a.jsonl}}]\n"))
    assert caught.value.where and caught.value.where.line == 1 and caught.value.hint


def test_auto_alone_leaves_the_candidates_to_this_machine(write) -> None:
    made = recipe.load(write("model: auto\ndata: [{path: a.jsonl}]\n"))
    assert (made.model, made.candidates) == ("auto", ())
    with pytest.raises(WrongUse, match="no gate"):
        recipe.load(write("model: auto\ntrain: []\n"))


JUDGED = "model: demo\ndata: [{path: r.jsonl, ability: a}]\n"


@pytest.mark.parametrize("compare", ["text", "json", "label", "contains", "number", "chrf", "judge"])
def test_every_way_to_compare_is_a_word_of_a_recipe(write, compare):
    text = f"{JUDGED}gate: {{abilities: {{a: {{compare: {compare}}}}}}}\n"
    assert recipe.load(write(text)).gate.abilities["a"].compare == compare


def test_a_judge_is_the_base_or_a_service_and_its_key_a_name(write):
    base = recipe.load(write(f"{JUDGED}gate: {{judge: base, tolerance: auto}}\n")).gate
    assert base.judge is None and base.tolerance == "auto"
    at = "{url: 'http://x', model: m, api_key: 'env:K'}"
    named = recipe.load(write(f"{JUDGED}gate: {{judge: {at}, tolerance: 3%}}\n")).gate
    assert (named.judge.url, named.judge.model, named.judge.api_key) == ("http://x", "m", "env:K")
    assert named.tolerance == 0.03


@pytest.mark.parametrize(
    ("word", "pii"), [("report", "report"), ("mask", "mask"), ("off", "off"), ("keep", "off"), ("", "report")]
)
def test_personal_data_is_reported_unless_asked_otherwise(tmp_path, word, pii) -> None:
    clean = f"clean: {{pii: {word}}}\n" if word else ""
    (tmp_path / "r.yaml").write_text(f"model: demo\ndata: [{{path: a.jsonl}}]\n{clean}")
    assert recipe.load(tmp_path / "r.yaml").clean.pii == pii


def test_a_word_of_map_may_name_several_columns(tmp_path) -> None:
    text = "model: demo\ndata: [{{path: a.csv, map: {{question: {}, answer: c}}}}]\n"
    (tmp_path / "r.yaml").write_text(text.format("[a, b]"))
    assert recipe.load(tmp_path / "r.yaml").data[0].map == {"user": ["a", "b"], "assistant": "c"}
    for wrong in ("[]", "3", "[a, 3]"):
        (tmp_path / "r.yaml").write_text(text.format(wrong))
        with pytest.raises(WrongUse, match="neither a column nor a list of columns"):
            recipe.load(tmp_path / "r.yaml")


def test_an_engine_with_a_server_of_its_own_takes_its_words(write) -> None:
    text = "serve: {engine: vllm, engine_python: envs/python, args: [--max-num-seqs, 32, --enforce-eager]}\n"
    serve = recipe.load(write(BASE + text)).serve
    assert serve.args == ("--max-num-seqs", "32", "--enforce-eager") and serve.engine_python == "envs/python"
    for word, code, hint in (("--max-num-seq", "args", "--max-num-seqs"), ("--port", "args_owned", "leave")):
        with pytest.raises(WrongUse) as caught:
            recipe.load(write(BASE + f"serve: {{engine: vllm, args: [{word}, 4]}}\n"))
        error = caught.value
        assert error.code == f"serve.{code}" and error.where.line == 4 and hint in error.hint
