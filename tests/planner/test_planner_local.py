from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.errors import Lacking, Refused
from steelyard.hardware import Calibration, Machine, catalogue, published_constants
from steelyard.ledger import Row
from steelyard.planner import UNREACHED, DataFacts, check_limits, explain, fill, learnt, plan_recipe, predict
from steelyard.planner.here.local import MODEL_VERSION
from steelyard.planner.here.local_serve import (
    closed_load,
    different_tokens,
    engine_row,
    looked_up_bytes,
    serve_rates,
    stream_s,
)
from steelyard.planner.here.local_train import memory_terms, optimiser_terms, packed, padded, step_terms
from steelyard.planner.here.rates import Rates, fit_rates
from steelyard.planner.job.footprint import training_bytes
from steelyard.planner.job.plans import most_usd
from steelyard.recipe import Compress, Goal, Load, Money, Recipe, Resources, Source, Stage
from steelyard.shape import Shape, of_config

SMOL = Shape(
    family="llama", layers=30, hidden=576, heads=9, kv_heads=3, head_dim=64, ffn=1536, vocab=49152,
    gated=True, tied=True, experts=0, experts_per_token=0, max_position=8192,
    params=134_515_008, active_params=134_515_008, dtype="bf16",
)  # fmt: skip
MACHINE = Machine(
    cpu_model="AMD EPYC", cores=2, threads=2, isa=("avx2", "avx512f", "avx512_bf16"), memory_bytes=24 * 2**30,
    memory_free_bytes=20 * 2**30, last_cache_bytes=2**25, versions=(), fingerprint="f", share=2 / 96,
    nearest_device="epyc-9654",
)  # fmt: skip
FACTS = DataFacts(
    rows=600, bytes=200_000, tokens=60_000, answer_tokens=20_000, longest=140, lengths=[100] * 600,
    abilities={"logs": 600}, held_out=150,
)  # fmt: skip
RECIPE = Recipe(
    path=Path("recipe.yaml"), root=Path("."), name="desk", model="demo", data=(Source(path="a.jsonl"),)
)
EMPTY = Calibration(fingerprint="f", rows=(), taken=(), skipped={}, measured_s=0, path="")
GOLDEN = Path(__file__).with_name("golden_plan.json")


def weigh(recipe=RECIPE, machine=MACHINE, facts=FACTS, calibration=EMPTY, rows=(), shape=SMOL):
    filled = fill(recipe, shape, machine, facts)
    local = predict(filled, shape, machine, calibration, facts, rows)
    return filled, local


def staged(**words) -> Recipe:
    return replace(RECIPE, train=(Stage(**words),))


# ------------------------------------------------------------------ fill


def test_what_the_recipe_says_is_kept_and_the_rest_has_a_reason():
    recipe = staged(
        max_length=512, per_device_train_batch_size=3, learning_rate=5e-4, max_steps=7, packing=False
    )
    filled, _ = weigh(recipe)
    (stage,) = filled.settings["train"]
    assert (stage["max_length"], stage["micro_batch"], stage["learning_rate"]) == (512, 3, 5e-4)
    assert stage["max_steps"] == 7 and stage["packing"] is False and stage["threads"] == 2
    assert filled.origins["train.0.learning_rate"] == "recipe"
    assert filled.origins["train.0.lora_rank"].startswith("plan: ")
    assert stage["grad_accum"] >= 1 and stage["num_train_epochs"] >= 1


def test_pruning_adds_its_steps_and_what_is_served_is_smaller():
    recipe = replace(RECIPE, compress=Compress(prune=0.7))
    whole = fill(recipe, SMOL, MACHINE, FACTS)
    filled = fill(recipe, SMOL, MACHINE, FACTS, share=0.7)
    assert filled.settings["heal"]["stage"] == "distil" and "prune" not in whole.settings
    assert filled.settings["train"] == whole.settings["train"]
    local, before = (predict(f, SMOL, MACHINE, EMPTY, FACTS) for f in (filled, whole))
    assert list(local.steps) == ["clean", "train", "prune", "heal", "compress", "gate", "serve"]
    assert list(before.steps) == ["clean", "train", "compress", "gate", "serve"]
    for step in ("prune", "heal"):
        assert local.steps[step]["wall_s"].low < local.steps[step]["wall_s"].value
        assert local.steps[step]["peak_rss_bytes"].value > 1e8 and local.steps[step]["cost_usd"].value > 0
        assert sum(explain(local)[step].values()) == pytest.approx(local.raw[step]["wall_s"])
    kept = local.steps["heal"]["score_kept"]
    assert kept.provenance == "vendor" and kept.low < 0.9 < kept.value < 1
    features = {"model_version": MODEL_VERSION, "raw": {"score_kept": kept.value}}
    heal = Row(
        run="r", step="heal", machine="f", features=features, predicted={}, measured={"score_kept": 0.99}
    )
    learnt_of = predict(filled, SMOL, MACHINE, EMPTY, FACTS, [heal] * 4).steps["heal"]["score_kept"]
    assert kept.value < learnt_of.value < 0.99 and learnt_of.high - learnt_of.low < kept.high - kept.low
    speed = [each.steps["serve"]["output_tok_s"].value for each in (local, before)]
    assert speed[0] > speed[1]
    assert local.disk_bytes > before.disk_bytes


def test_of_a_mixture_experts_go_and_trl_heals_it_as_it_was_tuned():
    """Every row is counted, so that more rows take longer; what no row reaches needs no healing."""
    words = {"model_type": "qwen3_moe", "num_experts": 32, "num_experts_per_tok": 4, "hidden_size": 512}
    words |= {"moe_intermediate_size": 256, "num_hidden_layers": 8, "num_attention_heads": 8}
    mixture = of_config(words | {"vocab_size": 32000, "intermediate_size": 512})
    recipe = replace(RECIPE, compress=Compress(prune=0.7))
    filled = fill(recipe, mixture, MACHINE, FACTS, "bf16", ("bf16",), 0.7)
    settings = filled.settings["prune"]
    assert 4 <= settings["experts"] < 32 and not settings["further"]
    assert (filled.settings["heal"]["engine"], filled.settings["heal"]["finetuning_type"]) == ("trl", "lora")
    local = predict(filled, mixture, MACHINE, EMPTY, FACTS)
    assert list(local.steps) == ["clean", "train", "prune", "heal", "compress", "gate", "serve"]
    many = predict(filled, mixture, MACHINE, EMPTY, replace(FACTS, tokens=10 * FACTS.tokens))
    assert many.raw["prune"]["wall_s"] > local.raw["prune"]["wall_s"]
    whole = predict(fill(recipe, mixture, MACHINE, FACTS, "bf16", ("bf16",)), mixture, MACHINE, EMPTY, FACTS)
    assert local.raw["serve"]["peak_rss_bytes"] < whole.raw["serve"]["peak_rss_bytes"]
    auto = replace(RECIPE, compress=Compress(prune="auto"))
    unreached = fill(auto, mixture, MACHINE, FACTS, "bf16", ("bf16",), UNREACHED)
    assert unreached.settings["prune"]["experts"] == 32 and unreached.settings["prune"]["further"]
    assert "heal" not in unreached.settings
    assert "heal" not in predict(unreached, mixture, MACHINE, EMPTY, FACTS).steps


def test_a_weight_of_a_source_is_no_mix_of_abilities():
    """`weight: 1` on one of two abilities made the mix 1 to 1 instead of by rows."""
    data = (Source(path="a", ability="a", weight=9.0), Source(path="b", ability="b"))
    assert fill(replace(RECIPE, data=data), SMOL, MACHINE, FACTS).settings["train"][0]["mix"] == {}
    mixed = replace(RECIPE, data=data, mix={"a": 1.0, "b": 2.0})
    assert fill(mixed, SMOL, MACHINE, FACTS).settings["train"][0]["mix"] == {"a": 1.0, "b": 2.0}


@pytest.mark.parametrize(
    ("longest", "memory_gib", "position", "expected", "why"),
    [
        (3000, 24, 8192, 3008, "longest example has 3,000"),
        (140, 24, 8192, 1024, "packed"),
        (30_000, 24, 8192, 8192, "the model's own context"),
        (20_000, 24, None, 20_032, "longest example"),
        (30_000, 4, None, None, "what the memory holds"),
    ],
)
def test_max_length_follows_the_data_the_model_and_the_memory(longest, memory_gib, position, expected, why):
    """It was 2,048 at most, and longer rows vanished."""
    facts = replace(FACTS, longest=longest)
    machine = replace(MACHINE, memory_bytes=memory_gib * 2**30)
    filled = fill(RECIPE, replace(SMOL, max_position=position), machine, facts)
    stage = filled.settings["train"][0]
    assert why in filled.origins["train.0.max_length"]
    assert stage["max_length"] == (expected or stage["max_length"])
    if expected is None:
        assert 512 <= stage["max_length"] < longest and stage["max_length"] % 64 == 0
        assert training_bytes({**stage, "micro_batch": 1}, SMOL, facts.answer_share) <= 0.85 * 4 * 2**30


def test_one_long_example_leaves_the_others_their_updates():
    """A sequence of 8,192 packed tokens would leave 60,000 tokens seven steps."""
    stages = [
        fill(RECIPE, SMOL, MACHINE, replace(FACTS, longest=n)).settings["train"][0] for n in (140, 9000)
    ]
    assert [stage["max_length"] for stage in stages] == [1024, 8192]
    assert [stage["pack_length"] for stage in stages] == [1024, 1024]
    lengths = [9000] + [100] * 599
    runs = [packed(replace(FACTS, lengths=lengths), {**stage, "micro_batch": 1}) for stage in stages]
    assert abs(runs[0].steps - runs[1].steps) <= 9000 * 2 // 1024 + 1
    given = fill(staged(max_length=2048), SMOL, MACHINE, FACTS).settings["train"][0]
    assert given["pack_length"] == 2048


def test_settings_never_depend_on_timings_free_memory_or_the_ledger():
    slower = replace(MACHINE, memory_free_bytes=2**30, fingerprint="other", share=0.5)
    assert fill(RECIPE, SMOL, MACHINE, FACTS) == fill(RECIPE, SMOL, slower, FACTS)


@pytest.mark.parametrize(
    ("isa", "weights", "form", "dtype"),
    [
        (("avx512_bf16",), "auto", "bf16", "bf16"),
        (("amx_bf16",), "auto", "bf16", "bf16"),
        (("avx2",), "auto", "int8", "f32"),
        (("avx512_bf16",), "int8", "int8", "bf16"),
    ],
)
def test_form_and_dtype_follow_the_instruction_set(isa, weights, form, dtype):
    filled, _ = weigh(replace(RECIPE, compress=Compress(weights=weights)), replace(MACHINE, isa=isa))
    assert filled.settings["compress"]["form"] == form and filled.settings["train"][0]["dtype"] == dtype


def test_a_calibrated_form_is_another_on_another_number_of_cores():
    """GPTQ's sums are made in as many parts as there are threads, and their last bits are others."""

    def settings(form: str, cores: int) -> dict:
        recipe = replace(RECIPE, compress=Compress(weights=form))
        return fill(recipe, SMOL, replace(MACHINE, cores=cores), FACTS).settings["compress"]

    assert settings("int4", 2) == {"form": "int4", "threads": 2} != settings("int4", 4)
    assert settings("int8", 2) == {"form": "int8"} == settings("int8", 4)


def test_a_service_has_room_for_the_requests_it_is_planned_for():
    load = Load(users=2, prompt_tokens=10_000, output_tokens=500)
    recipe = replace(RECIPE, goal=replace(RECIPE.goal, load=load))
    filled = fill(recipe, replace(SMOL, max_position=32_768), MACHINE, FACTS)
    assert filled.settings["serve"]["max_model_len"] == 10_500
    assert filled.origins["serve.max_model_len"] == "plan: a request of goal.load"
    usual = fill(RECIPE, replace(SMOL, max_position=32_768), MACHINE, FACTS)
    assert usual.settings["serve"]["max_model_len"] == 8192


def test_stages_sum_to_the_training_and_a_row_teaches_by_its_own():
    recipe = replace(RECIPE, train=(Stage(max_steps=10), Stage(max_steps=30)))
    _, local = weigh(recipe)
    walls = [stage["wall_s"].value for stage in local.stages]
    assert sum(walls) == pytest.approx(local.steps["train"]["wall_s"].value) and walls[0] < walls[1]
    rows = []
    for part, wall_s in enumerate(walls):
        told = {"features": local.features("train", part), "measured": {"wall_s": wall_s}}
        rows.append(Row(run="r", step="train", machine="m", **told))
    assert learnt("train", "wall_s", rows) == (pytest.approx(1.0), 2), "as predicted: nothing to correct"


def test_no_training_needs_no_training():
    filled, local = weigh(replace(RECIPE, train=()))
    assert filled.settings["train"] == [] and local.steps["train"]["wall_s"].value == 0
    assert local.steps["serve"]["tpot_s"].value > 0


# ------------------------------------------------------------------ predict


KEYS = {
    "clean": {"wall_s", "peak_rss_bytes"},
    "train": {"wall_s", "peak_rss_bytes", "steps", "step_s", "tokens"},
    "compress": {"wall_s", "peak_rss_bytes"},
    "gate": {"wall_s", "peak_rss_bytes"},
    "serve": {"wall_s", "peak_rss_bytes", "ttft_s", "tpot_s", "output_tok_s"},
}


def test_every_step_is_predicted_under_the_fixed_keys_with_intervals():
    _, local = weigh()
    assert {step: set(figures) - {"cost_usd"} for step, figures in local.steps.items()} == KEYS
    for figures in local.steps.values():
        for figure in figures.values():
            assert figure.low <= figure.value <= figure.high
    assert local.cost_usd.value == pytest.approx(local.wall_s * MACHINE.price_usd_per_h / 3600)


def test_parts_sum_to_each_time():
    _, local = weigh()
    for step, parts in explain(local).items():
        assert sum(parts.values()) == pytest.approx(local.raw[step]["wall_s"])


def test_twice_the_epochs_train_twice_the_tokens():
    _, once = weigh(staged(num_train_epochs=2))
    _, twice = weigh(staged(num_train_epochs=4))
    assert twice.steps["train"]["tokens"].value == pytest.approx(
        2 * once.steps["train"]["tokens"].value, rel=0.01
    )
    assert twice.steps["train"]["step_s"].value == pytest.approx(
        once.steps["train"]["step_s"].value, rel=0.01
    )
    assert twice.steps["train"]["wall_s"].value > 1.6 * once.steps["train"]["wall_s"].value


@given(st.sampled_from([256, 512, 1024]), st.sampled_from([1, 2, 4]), st.sampled_from([4, 16, 64]))
def test_memory_grows_with_length_batch_and_rank(length, batch, rank):
    def held(length, batch, rank):
        recipe = staged(max_length=length, per_device_train_batch_size=batch, lora_rank=rank)
        return weigh(recipe)[1].steps["train"]["peak_rss_bytes"].value

    smallest = held(length, batch, rank)
    assert held(2 * length, batch, rank) >= smallest
    assert held(length, 2 * batch, rank) >= smallest
    assert held(length, batch, 2 * rank) > smallest


def test_full_training_holds_more_than_lora():
    lora, full = (weigh(staged(finetuning_type=t))[1].steps["train"] for t in ("lora", "full"))
    assert full["peak_rss_bytes"].value > lora["peak_rss_bytes"].value + 10 * SMOL.params


def test_rows_too_long_are_split_cut_or_dropped_and_packing_closes_before_the_next():
    facts = replace(FACTS, rows=4, lengths=[60, 60, 60, 900], longest=900, tokens=1080)
    settings = {"max_length": 128, "packing": True, "micro_batch": 1, "grad_accum": 1, "num_train_epochs": 1}
    whole = packed(facts, settings)
    assert whole.tokens == 1080 and whole.steps == 2 + 8  # 900 are seven parts of 128 and a last one
    assert packed(facts, settings | {"overlong": "truncate"}).tokens == 180 + 128
    settings |= {"overlong": "drop"}
    run = packed(facts, settings)
    assert run.tokens == 180 and run.steps == 2
    assert packed(facts, settings | {"packing": False}).steps == 3
    assert packed(facts, settings | {"max_steps": 9}).steps == 9


def test_a_row_of_several_examples_counts_with_all_its_tokens():
    """A template that rewrites history makes each answer an example: more examples than rows."""
    facts = replace(FACTS, rows=2, lengths=[20, 40, 60, 20, 40, 60], longest=60, tokens=240)
    settings = {"max_length": 64, "packing": False, "micro_batch": 1, "grad_accum": 1, "num_train_epochs": 1}
    run = packed(facts, settings)
    assert run.tokens == 240 and run.steps == 6


# ------------------------------------------------------------------ rates


def train_row(layers, tokens, kind="lora", hidden=576):
    sizes = {"hidden": hidden, "ffn": 3 * hidden, "heads": hidden // 64, "kv_heads": 3, "head_dim": 64}
    work = {"layers": layers, "tokens": tokens, "answer_tokens": tokens // 4, "seq_len": 64, "vocab": 49152}
    return {"op": "train_micro", "finetuning_type": kind, "dtype": "bf16", "lora_rank": 8} | sizes | work


TRUE = {"gemm": 4e-12, "head": 4e-12, "elementwise": 4e-11, "layers": 2e-3, "attention": 2e-11}
PRIOR = {"gemm": 2e-12, "head": 2e-12, "elementwise": 1e-10, "layers": 1e-3, "attention": 1e-11}


def test_few_rows_teach_rates_that_hold_for_other_sizes():
    cells = [(2, 512), (6, 512), (2, 2048), (6, 1024)]
    rows = [train_row(*cell) for cell in cells]
    rows = [r | {"s": sum(step_terms(r)[n] * c for n, c in TRUE.items())} for r in rows]
    rates = fit_rates(rows, step_terms, PRIOR)
    unseen = train_row(30, 1024)
    truth = sum(step_terms(unseen)[n] * c for n, c in TRUE.items())
    assert rates.total(step_terms(unseen)) == pytest.approx(truth, rel=0.1)
    assert rates.error < 0.03 and rates.provenance == "calibrated"
    assert sum(rates.cost(step_terms(unseen)).values()) == pytest.approx(rates.total(step_terms(unseen)))


def test_a_row_taken_while_others_worked_misleads_little():
    rows = [train_row(*cell) for cell in [(2, 512), (6, 512), (2, 2048), (6, 1024), (4, 512), (4, 1024)]]
    rows = [r | {"s": sum(step_terms(r)[n] * c for n, c in TRUE.items())} for r in rows]
    rows[2] = rows[2] | {"s": 3 * rows[2]["s"]}
    unseen = train_row(30, 1024)
    truth = sum(step_terms(unseen)[n] * c for n, c in TRUE.items())
    assert fit_rates(rows, step_terms, PRIOR).total(step_terms(unseen)) == pytest.approx(truth, rel=0.25)


def test_without_rows_the_priors_stand_and_say_so():
    rates = fit_rates([], step_terms, PRIOR)
    assert rates.of == PRIOR and rates.provenance == "modelled"


def test_terms_grow_with_the_work():
    assert step_terms(train_row(6, 512))["gemm"] == 3 * step_terms(train_row(2, 512))["gemm"]
    assert step_terms(train_row(2, 512, "full"))["gemm"] == 1.5 * step_terms(train_row(2, 512))["gemm"]
    assert (
        memory_terms(train_row(2, 1024))["activations"] == 2 * memory_terms(train_row(2, 512))["activations"]
    )


ENGINE = {"max_num_batched_tokens": 2048, "max_num_seqs": 64}


@pytest.mark.parametrize("users", [1, 8, 32])
def test_a_closed_load_conserves_its_tokens(users):
    rates, row = serve_rates(EMPTY, "bf16").step, engine_row(SMOL, "bf16")
    played = closed_load(rates, row, users, 128, 64, ENGINE)
    assert played.tokens == users * 3 * 192
    assert played.output_tok_s <= users * 64 / (played.tpot_s * 63)
    assert 0 < played.ttft_s < played.wall_s


def test_more_users_wait_longer_and_get_more_done():
    rates, row = serve_rates(EMPTY, "bf16").step, engine_row(SMOL, "bf16")
    one, many = (closed_load(rates, row, users, 128, 64, ENGINE) for users in (1, 32))
    assert many.ttft_s > one.ttft_s and many.tpot_s > one.tpot_s and many.output_tok_s > one.output_tok_s


def test_requests_that_come_together_are_let_in_one_by_one():
    """The first is alone in its step, so of two waves of prompts each holds up the answers of the other."""
    row, prefill_s = engine_row(SMOL, "bf16"), 1e-3
    of = {"gemm": prefill_s / 2 / (SMOL.params - SMOL.vocab * SMOL.hidden), "start": 0.05}
    played = closed_load(Rates(of=of, rows=1, error=0), row, 32, 128, 64, ENGINE)
    assert played.tpot_s == pytest.approx(0.05 + 2048 * prefill_s / 63, rel=0.2)
    assert 2.0 < played.ttft_s < 2.6  # those of the first wave, one more than those of the second


def test_on_one_core_front_and_client_take_turns_with_the_engine():
    one, many = stream_s(1), stream_s(16)
    assert one[0] > many[0] > 0 and one[1] > many[1] > 0
    rates, row = serve_rates(EMPTY, "bf16").step, engine_row(SMOL, "bf16")
    alone, beside = (closed_load(rates, row, 8, 128, 64, ENGINE | {"threads": n}).tpot_s for n in (1, 16))
    assert alone > beside


def load_row(layers, form, **more):
    sizes = engine_row(replace(SMOL, layers=layers), form)
    work = {"op": "prefill", "tokens": 512, "s": 0.02 * layers}
    return sizes | work | more


def test_a_form_that_was_not_measured_goes_by_the_one_stored_alike():
    rows = (load_row(4, "bf16"), load_row(20, "bf16"), load_row(20, "int8", s=4.0))
    known = replace(EMPTY, rows=rows)
    assert serve_rates(known, "bf16_kv8").step == serve_rates(known, "bf16").step
    assert serve_rates(known, "int8").step != serve_rates(known, "bf16").step
    assert serve_rates(known, "int4").step.rows == 3


def test_rows_of_the_embedding_are_held_as_far_as_they_were_looked_up():
    row = engine_row(SMOL, "bf16")
    assert looked_up_bytes(row, 10) == 10 * 2**16
    assert looked_up_bytes(row, SMOL.vocab) == SMOL.vocab * SMOL.hidden * 2
    assert different_tokens(5) == 5 and 500 < different_tokens(2000) < 2000


def test_an_embedding_beside_its_own_head_is_not_laid_out_anew():
    more = SMOL.vocab * SMOL.hidden
    apart = replace(SMOL, tied=False, params=SMOL.params + more, active_params=SMOL.active_params + more)
    recipe = replace(RECIPE, train=(), goal=Goal(load=Load(users=1)))
    tied, untied = (
        weigh(recipe, shape=shape)[1].steps["serve"]["peak_rss_bytes"].value for shape in (SMOL, apart)
    )
    assert untied == pytest.approx(tied)


def test_attention_pads_rows_to_the_longest_of_like_length():
    assert padded([10, 33, 60, 100, 129, 130]) == [32, 64, 64, 128, 160, 160]
    assert padded([64] * 3) == [64] * 3


def test_memory_of_training_counts_what_each_kind_holds():
    lora, full = (memory_terms(train_row(2, 512, kind)) for kind in ("lora", "full"))
    assert lora["file"] > 0 and full["file"] == 0 and full["copies"] > lora["copies"] > 0
    assert lora["activations"] == full["activations"] and lora["working"] < lora["activations"]
    assert memory_terms(train_row(30, 512))["working"] == lora["working"]


def test_an_update_is_passes_over_vectors_and_for_lora_a_turn_of_every_layer():
    lora, full = (optimiser_terms(train_row(30, 512, kind)) for kind in ("lora", "full"))
    assert lora["layers"] == 30 and full["layers"] == 0 and full["bytes"] > 20 * lora["bytes"]


def test_low_ranks_take_as_long_as_the_narrowest_product():
    ranks = [step_terms(train_row(2, 512) | {"lora_rank": rank})["adapters"] for rank in (2, 4, 16, 32)]
    assert ranks[0] < 1.1 * ranks[1] and ranks[3] == pytest.approx(2 * ranks[2])


# ------------------------------------------------------------------ ledger


def ledger_rows(count, ratio, step="train", **features):
    known = {"model_version": MODEL_VERSION, "raw": {"wall_s": 10.0}} | features
    return [Row(run="r", step=step, machine="f", features=known, measured={"wall_s": 10 * ratio})] * count


def test_the_ledger_is_believed_more_the_more_rows_it_has():
    factors = [learnt("train", "wall_s", ledger_rows(n, 1.5))[0] for n in (0, 1, 3, 20)]
    assert factors[0] == 1 and factors == sorted(factors) and factors[-1] == pytest.approx(1.5, rel=0.05)
    assert learnt("train", "wall_s", ledger_rows(5, 1.5, step="serve")) == (1.0, 0)
    assert learnt("train", "wall_s", ledger_rows(5, 1.5, model_version=0)) == (1.0, 0)
    assert learnt("train", "wall_s", ledger_rows(20, 50.0))[0] < 2.1


def test_the_ledger_corrects_figures_but_not_settings():
    filled, before = weigh()
    again, after = weigh(rows=ledger_rows(10, 1.4))
    assert filled == again and after.raw == before.raw
    assert after.steps["train"]["wall_s"].value > 1.2 * before.steps["train"]["wall_s"].value
    assert after.features("train")["raw"] == before.raw["train"]


def with_engine(filled, **words):
    stages = [{**stage, **words} for stage in filled.settings["train"]]
    return replace(filled, settings={**filled.settings, "train": stages})


def test_trl_has_times_and_memory_of_its_own_and_is_less_sure():
    filled, own = weigh()
    trl = predict(with_engine(filled, engine="trl"), SMOL, MACHINE, EMPTY, FACTS)
    for name, least, most in (("step_s", 1.5, 3.0), ("peak_rss_bytes", 1.2, 1.8)):
        ratio = trl.steps["train"][name].value / own.steps["train"][name].value
        assert least < ratio < most, name
    wide = [local.steps["train"]["step_s"] for local in (own, trl)]
    assert wide[1].high / wide[1].value > wide[0].high / wide[0].value
    assert trl.steps["train"]["wall_s"].value > own.steps["train"]["wall_s"].value + 5  # it imports first
    assert trl.steps["serve"] == own.steps["serve"]


def test_a_training_teaches_its_engine_and_its_device_alone():
    filled, _ = weigh()
    trl = {"settings": {"engine": "trl", "device": "cpu"}}
    there = {"settings": {"engine": "trl", "device": "cuda"}}

    def moved(rows, **words):
        job = with_engine(filled, **words)
        before, after = (predict(job, SMOL, MACHINE, EMPTY, FACTS, r) for r in ((), rows))
        return after.steps["train"]["wall_s"].value / before.steps["train"]["wall_s"].value

    own, of_trl, of_cuda = (ledger_rows(10, 1.4, **f) for f in ({}, trl, there))
    assert moved(own) > 1.2 and moved(of_trl) == moved(of_cuda) == 1.0
    assert moved(of_trl, engine="trl") > 1.2 and moved(own, engine="trl") == 1.0
    assert moved(of_cuda, engine="trl") == 1.0 and moved(of_cuda, engine="trl", device="cuda") > 1.2


def test_a_service_of_transformers_answers_one_after_another():
    filled, own = weigh()
    serve = {**filled.settings["serve"], "engine": "transformers"}
    slow = predict(replace(filled, settings={**filled.settings, "serve": serve}), SMOL, MACHINE, EMPTY, FACTS)
    for step in ("gate", "serve"):
        assert slow.steps[step]["peak_rss_bytes"].value > own.steps[step]["peak_rss_bytes"].value + 3e8
    assert slow.steps["gate"]["wall_s"].value > own.steps["gate"]["wall_s"].value


# ------------------------------------------------------------------ limits


def limited(machine=MACHINE, **goal):
    recipe = replace(RECIPE, goal=Goal(**goal))
    filled, local = weigh(recipe, machine)
    plans = plan_recipe(recipe, filled, SMOL, FACTS, catalogue(), published_constants())
    check_limits(recipe, filled, local, plans, machine)
    return plans


def test_a_job_within_its_limits_goes_on():
    plans = limited(budget=Money(amount=5), deadline_s=86400.0)
    assert len(plans.plans) == len(catalogue()) and plans.plans[0].steps
    assert [s["step"] for s in plans.plans[0].steps] == [
        "clean",
        "prepare",
        "train",
        "compress",
        "gate",
        "serve",
    ]
    assert plans.shown()[0]["device"] == plans.plans[0].device


def test_this_machine_is_ranked_among_the_devices():
    filled, local = weigh()
    plans = plan_recipe(RECIPE, filled, SMOL, FACTS, catalogue(), published_constants(), local)
    (here,) = [p for p in plans.plans if p.device == "this-machine"]
    assert (
        here.cost_usd.value == pytest.approx(local.cost_usd.value)
        and len(plans.plans) == len(catalogue()) + 1
    )
    assert sum(here.parts.values()) == pytest.approx(here.time_s.value)


def test_the_users_own_price_counts():
    own = replace(RECIPE, resources=Resources(price_per_h=Money(amount=36)))
    _, local = weigh(own)
    assert local.cost_usd.value == pytest.approx(local.wall_s / 100)


@pytest.mark.parametrize(
    ("goal", "code"),
    [
        ({"budget": Money(amount=1e-6)}, "plan.budget"),
        ({"deadline_s": 1.0}, "plan.deadline"),
        ({"budget": Money(amount=1e-3), "deadline_s": 0.001}, "plan.deadline"),
    ],
)
def test_a_job_over_a_limit_is_refused_with_the_tightest_named(goal, code):
    with pytest.raises(Refused) as caught:
        limited(**goal)
    assert caught.value.code == code and caught.value.exit_code == 3 and caught.value.hint


@pytest.mark.parametrize("share", [0.9, 1.05, 1.5])
def test_a_run_is_refused_where_the_table_says_unfit(share):
    _, local = weigh()
    deadline_s = local.time_s.value * share
    assert local.time_s.high < 1.5 * local.time_s.value
    goal = Goal(deadline_s=deadline_s, budget=Money(amount=most_usd(local.time_s, local.cost_usd) * 1.01))
    recipe = replace(RECIPE, goal=goal)
    filled, local = weigh(recipe)
    told = plan_recipe(recipe, filled, SMOL, FACTS, catalogue(), published_constants(), local)
    (here,) = [p for p in told.plans if p.device == "this-machine"]
    try:
        check_limits(recipe, filled, local, told, MACHINE)
        goes_on = True
    except Refused as refused:
        goes_on = False
        assert refused.code == "plan.deadline"
    assert here.fits == goes_on == (share > 1.2)


def test_the_high_end_of_the_memory_has_to_be_free():
    _, local = weigh()
    between = int((local.peak_bytes.value + local.peak_bytes.high) / 2)
    with pytest.raises(Lacking):
        limited(replace(MACHINE, memory_free_bytes=between))


def test_the_nearest_plan_that_fits_here_trains_fewer_steps():
    _, local = weigh()
    with pytest.raises(Refused) as caught:
        limited(deadline_s=local.wall_s * 0.8)
    assert "max_steps" in caught.value.hint


def test_too_little_memory_is_lacking_not_refused():
    with pytest.raises(Lacking) as caught:
        limited(replace(MACHINE, memory_free_bytes=2**30))
    assert caught.value.code == "memory.too_small" and caught.value.exit_code == 5 and caught.value.hint


# ------------------------------------------------------------------ golden


def test_the_plan_of_a_fixed_machine_is_the_golden_one():
    """Rewrite tests/planner/golden_plan.json by hand when a formula changes on purpose."""
    recipe = replace(RECIPE, goal=Goal(load=Load(users=8)))
    filled, local = weigh(recipe)
    told = {
        "settings": filled.settings,
        "steps": {
            s: {k: float(f"{f.value:.6g}") for k, f in figures.items()} for s, figures in local.steps.items()
        },
    }
    assert json.loads(json.dumps(told)) == json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert weigh(recipe) == weigh(recipe)


def test_a_run_beside_other_work_teaches_nothing():
    def row(share: float | None) -> Row:
        features = {"model_version": MODEL_VERSION, "raw": {"wall_s": 10.0}}
        features |= {} if share is None else {"share": share}
        return Row(run="r", step="train", machine="m", features=features, measured={"wall_s": 20.0})

    assert learnt("train", "wall_s", [row(0.5)] * 3) == (1.0, 0)
    factor, rows = learnt("train", "wall_s", [row(0.97), row(None), row(0.4)])
    assert rows == 2 and factor > 1.2


def test_a_disturbed_calibration_is_corrected_and_less_sure():
    rows = ({"op": "gemm", "flops_per_s": 1e11, "s": 2.0, "share": 0.5}, {"op": "gemm", "flops_per_s": 1e11})
    calibration = replace(EMPTY, rows=rows)
    assert calibration.share == 0.5
    assert [r["flops_per_s"] for r in calibration.of("gemm")] == [2e11, 1e11]
    assert calibration.of("gemm")[0]["s"] == 1.0
