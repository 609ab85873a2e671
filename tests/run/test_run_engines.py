"""The engine of each stage in a plan: chosen, said, or refused with its place in the recipe."""

from __future__ import annotations

import pytest

from steelyard.cli.telling.plan_lines import engine_lines
from steelyard.errors import Lacking, WrongUse
from steelyard.planner import DataFacts, Fill
from steelyard.recipe import load
from steelyard.run.planning.engines import (
    CLEANED_THERE_FROM,
    engine_document,
    with_clean_hosts,
    with_engines,
)
from steelyard.training import TrainNeed, choose

RECIPE = "model: demo\ndata: [{path: rows.jsonl}]\ntrain:\n- {stage: sft%s}\n"


@pytest.fixture
def recipe(monkeypatch, tmp_path):
    """Of a user who has no environment with TRL."""
    monkeypatch.delenv("STEELYARD_TRL_PYTHON", raising=False)
    monkeypatch.setenv("STEELYARD_DATA", str(tmp_path))

    def of(words=""):
        (tmp_path / "r.yaml").write_text(RECIPE % words)
        return load(tmp_path / "r.yaml")

    return of


def filled(recipe, family="llama"):
    return with_engines(recipe, Fill(settings={"train": [{"dtype": "bf16"}]}, origins={}), family)


@pytest.mark.parametrize(
    "words, origin",
    [
        ("", "plan: the fastest on a CPU for this family"),
        (", engine: auto", "plan: the fastest on a CPU for this family"),
        (", engine: own", "recipe"),
    ],
)
def test_own_trains_what_it_can_on_this_cpu(recipe, words, origin):
    made = filled(recipe(words))
    assert made.settings["train"] == [{"dtype": "bf16", "engine": "own"}]
    assert made.origins["train.0.engine"] == origin
    assert engine_document(made.settings) == [{"engine": "own", "device": "cpu", "untested": False}]


TWO = RECIPE.replace("rows.jsonl}]", "a.jsonl, ability: a}, {path: b.jsonl, ability: b}]")


@pytest.mark.parametrize(
    "words, per",
    [("", "ability"), (", loss_per: token", None), (", beta: 0.5", "ability"), (", seed: 1", "ability")],
)
def test_several_abilities_are_as_many_objectives(recipe, tmp_path, words, per):
    (tmp_path / "r.yaml").write_text(TWO % words)
    made = filled(load(tmp_path / "r.yaml"))
    assert made.settings["train"][0].get("loss_per") == per
    assert made.origins.get("train.0.loss_per") == (per and "plan: several abilities")


def test_auto_and_nothing_are_the_same_recipe(recipe):
    assert recipe().hash == recipe(", engine: auto, device: auto").hash != recipe(", engine: own").hash


@pytest.mark.parametrize("words", [", engine: trl", ", device: cuda"])
def test_without_its_environment_trl_is_one_clear_error(recipe, words):
    with pytest.raises(Lacking) as caught:
        filled(recipe(words))
    error = caught.value
    assert (error.code, error.where.field) == ("train.engine_missing", "train.0.engine")
    assert error.where.file.endswith("r.yaml") and error.hint == "steelyard engines install trl"


def test_own_on_a_gpu_is_wrong_use(recipe):
    with pytest.raises(WrongUse, match="the training engine own has no device: cuda") as caught:
        filled(recipe(", engine: own, device: cuda"))
    assert caught.value.where.field == "train.0.engine"


@pytest.mark.parametrize("field, word", [("engine", "axolotl"), ("device", "tpu")])
def test_a_word_that_is_none_is_refused_at_its_line(recipe, field, word):
    with pytest.raises(WrongUse) as caught:
        recipe(f", {field}: {word}")
    where = caught.value.where
    assert (where.field, where.line) == (f"train.0.{field}", 4)
    assert word in caught.value.message and caught.value.hint


def test_a_device_nobody_has_run_is_said(recipe, monkeypatch):
    monkeypatch.setattr("steelyard.training.engines.trl.python.trl_missing", lambda: None)
    monkeypatch.setattr("steelyard.training.engines.trl.python.trl_versions", lambda: {"trl": "1.16.0"})
    made = filled(recipe(", device: cuda"))
    assert made.settings["train"][0] == {
        "dtype": "bf16",
        "engine": "trl",
        "device": "cuda",
        "versions": {"trl": "1.16.0"},
    }
    assert made.origins["train.0.engine"] == "plan: own has no device: cuda"
    assert engine_document(made.settings) == [{"engine": "trl", "device": "cuda", "untested": True}]


@pytest.fixture
def with_trl(monkeypatch):
    monkeypatch.setattr("steelyard.training.engines.trl.python.trl_missing", lambda: None)
    monkeypatch.setattr("steelyard.training.engines.trl.python.trl_versions", dict)


def shared(recipe, micro=4, accum=2):
    fill = Fill(settings={"train": [{"micro_batch": micro, "grad_accum": accum}]}, origins={})
    made = with_engines(recipe, fill, "llama")
    names = ("engine", "processes", "micro_batch", "grad_accum", "fsdp")
    return [made.settings["train"][0].get(name) for name in names], made.origins


@pytest.mark.parametrize(
    "words, wanted",
    [
        ("", ["own", None, 4, 2, None]),
        (", processes: 1", ["own", None, 4, 2, None]),
        (", processes: 2", ["trl", 2, 4, 2, None]),
        (", processes: 4", ["trl", 4, 2, 4, None]),
        (", processes: 16", ["trl", 16, 1, 16, None]),
        (", processes: 4, per_device_train_batch_size: 8", ["trl", 4, 8, 4, None]),
        (", processes: 2, device: cuda, fsdp: true", ["trl", 2, 4, 2, True]),
    ],
)
def test_processes_share_out_a_step(words, wanted, recipe, with_trl):
    assert shared(recipe(words))[0] == wanted


def test_an_accelerator_gets_a_process_for_each_device(recipe, with_trl, monkeypatch):
    monkeypatch.setattr("steelyard.run.planning.engines.trl_devices", lambda: {"cuda": 8})
    made, origins = shared(recipe(", device: cuda"))
    assert made == ["trl", 8, 1, 8, None] and origins["train.0.processes"] == "plan: one a device"
    few, _ = shared(recipe(", device: cuda, gradient_accumulation_steps: 2"))
    assert few == ["trl", 2, 4, 2, None]  # what the recipe names stays


def test_a_process_without_a_micro_batch_is_refused(recipe, with_trl):
    with pytest.raises(WrongUse, match="4 processes share out 2 micro-batches of a step: 2 get none") as e:
        shared(recipe(", processes: 4, gradient_accumulation_steps: 2"))
    assert e.value.code == "train.few_batches" and e.value.where.field == "train.0.processes"
    assert e.value.hint == "gradient_accumulation_steps: 4, or processes: 2"


def test_several_processes_for_pairs_are_refused(with_trl):
    with pytest.raises(WrongUse, match="no 2 processes for stage: dpo"):
        choose(TrainNeed(family="llama", stage="dpo", processes=2))


def test_shards_on_a_cpu_are_refused(recipe, with_trl):
    with pytest.raises(WrongUse, match="no fsdp on device: cpu"):
        shared(recipe(", engine: trl, fsdp: true"))


HOSTS = "resources: {hosts: [10.0.0.1, 10.0.0.2]}\n"


@pytest.fixture
def there(monkeypatch, with_trl):
    """A cluster of two machines of one place each."""
    both = (("10.0.0.1", 1), ("10.0.0.2", 1))
    monkeypatch.setattr("steelyard.run.planning.engines.ray_environment", lambda keys: {})
    monkeypatch.setattr("steelyard.cluster.check_reachable", lambda *_: None)
    monkeypatch.setattr("steelyard.training.hosts_there", lambda head, hosts, device: both)


@pytest.mark.parametrize("words", [HOSTS, "resources: {ray: 10.0.0.1}\n"])
def test_hosts_share_out_what_can_be_shared(recipe, there, words):
    made = load_with(recipe, f"- {{stage: dpo}}\n{words}")
    sft, dpo = made.settings["train"]
    assert (sft["engine"], sft["hosts"], sft["ray"]) == ("trl", ["10.0.0.1", "10.0.0.2"], "10.0.0.1:6379")
    assert sft["grad_accum"] == 2 and "processes" not in sft  # each a micro-batch
    assert "hosts" not in dpo and made.origins["train.1.hosts"].endswith("one machine")


def load_with(recipe, more):
    path = recipe("").path
    path.write_text(RECIPE % "" + more)
    read = load(path)
    return with_engines(
        read, Fill(settings={"train": [{"dtype": "bf16"}] * len(read.train)}, origins={}), "llama"
    )


MUCH, LITTLE = DataFacts(bytes=CLEANED_THERE_FROM), DataFacts(bytes=CLEANED_THERE_FROM - 1)


@pytest.mark.parametrize(
    ("more", "facts", "why"),
    [
        ("", MUCH, "recipe"),
        ("", LITTLE, "plan: under 30 MB it is done sooner here"),
        ("clean: {pii_model: tagger}\n", MUCH, "plan: the model of pii_model is on this machine alone"),
        ("clean: none\n", MUCH, "plan: nothing is cleaned"),
    ],
)
def test_the_hosts_of_a_recipe_clean_what_is_worth_it(recipe, there, more, facts, why):
    path = recipe("").path
    path.write_text(RECIPE % ", engine: own" + HOSTS + more)
    read = load(path)
    made = with_clean_hosts(read, Fill(settings={"train": [{}]}, origins={}), facts)
    on = {"hosts": ["10.0.0.1", "10.0.0.2"], "ray": "10.0.0.1:6379"} if why == "recipe" else None
    assert (made.settings.get("clean_on"), made.origins["clean.hosts"]) == (on, why)
    told = " ".join(engine_lines({"settings": made.settings, "origins": made.origins}))
    assert ("cleaned on 10.0.0.1, 10.0.0.2 (recipe)" if on else "cleaned on this machine") in told


def test_a_cluster_that_is_not_there_is_one_clear_error(recipe, with_trl, monkeypatch, tmp_path):
    with pytest.raises(Lacking) as caught:
        load_with(recipe, HOSTS)
    assert caught.value.code == "cluster.no_keys" and "steelyard cluster keys" in caught.value.hint
