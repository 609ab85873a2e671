"""What a training row tells, however it is spelled, and what is inferred where it tells nothing."""

from __future__ import annotations

import importlib
from math import isclose
from pathlib import Path

import numpy as np
import pytest

from steelyard.hardware import catalogue, named_models, published_constants
from steelyard.planner import Constants, leave_out, predict_results, row_key, score_results

CONSTANTS = Constants.from_json(published_constants())
ROW = {
    "id": "r", "source": "s", "phase": "pretrain", "model": "llama3-8b", "device": "h100-sxm",
    "devices": "16", "precision": "bf16", "framework": "Megatron-LM", "date": "2025-01",
    "global_batch": "128", "seq_len": "8192", "metric": "tokens_per_s_per_device",
    "unit": "tokens/s/device", "value": "",
}  # fmt: skip


def predicted(**cells: str):
    return predict_results([ROW | cells], catalogue(), named_models(), CONSTANTS)[0]


@pytest.mark.parametrize(
    ("metric", "unit", "factor"),
    [
        ("tokens_per_s_per_gpu", "tokens/s/gpu", 1),
        ("tokens_per_gpu_per_s", "tokens/s", 1),
        ("throughput", "tokens/s/GPU", 1),
        ("tokens_per_s", "tokens/s", 16),
        ("Throughput", "tokens per second", 16),
        ("samples_per_s", "samples/s", 16 / 8192),
        ("sequences_per_s", "seq/s/device", 1 / 8192),
    ],
)
def test_rates_however_spelled(metric: str, unit: str, factor: float):
    assert isclose(predicted(metric=metric, unit=unit).value, factor * predicted().value, rel_tol=1e-9)


@pytest.mark.parametrize(
    ("cells", "same"),
    [
        ({"phase": "Pre-training "}, {}),
        ({"phase": "continued pre-training"}, {}),
        ({"phase": "Supervised fine-tuning"}, {"phase": "finetune"}),
        ({"phase": "preference"}, {"phase": "dpo"}),
        ({"device": "Google TPU v5p", "framework": ""}, {"device": "tpu-v5p", "framework": ""}),
        (
            {"phase": "lora", "precision": "NF4", "model": "llama3-70b", "devices": "1"},
            {"phase": "lora", "weight_bits": "4", "model": "llama3-70b", "devices": "1"},
        ),
    ],
)
def test_phases_and_devices_however_spelled(cells: dict[str, str], same: dict[str, str]):
    assert predicted(**cells).value == predicted(**same).value


@pytest.mark.parametrize(
    ("metric", "unit", "of", "factor"),
    [
        ("step_time_ms", "ms", ("step_time_s", "s"), 1e3),
        ("iteration_time", "s", ("step_time_s", "s"), 1),
        ("ms_per_step", "", ("step_time_s", "s"), 1e3),
        ("MFU", "%", ("mfu", "fraction"), 100),
        ("model_flops_utilization", "", ("mfu", "fraction"), 1),
        ("model_tflops_per_gpu", "TFLOP/s/GPU", ("tflops_per_device", "TFLOPS/device"), 1),
        ("pflops", "PFLOP/s", ("tflops_per_device", "TFLOPS/device"), 16e-3),
    ],
)
def test_times_and_shares_however_spelled(metric: str, unit: str, of: tuple[str, str], factor: float):
    known = predicted(metric=of[0], unit=of[1]).value
    assert isclose(predicted(metric=metric, unit=unit).value, factor * known, rel_tol=1e-9)


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"metric": "time_to_train", "unit": "min"}, "needs a number of tokens"),
        ({"metric": "step_time_s", "unit": "s", "global_batch": ""}, "global_batch is empty"),
        ({"precision": "int8"}, "training in int8 is not known"),
        ({"metric": "tokens_per_day", "unit": "tokens/day"}, "is not known for pretrain"),
        ({"seq_len": ""}, "seq_len is empty"),
    ],
)
def test_what_is_not_told_is_not_guessed(cells: dict[str, str], reason: str):
    assert predicted(**cells).value is None and reason in predicted(**cells).reason


@pytest.mark.parametrize(
    ("spelled", "plain"),
    [("FP8", "fp8"), ("mxfp8", "fp8"), ("bf16-mixed", "bf16"), ("bfloat16", "bf16"), ("", "bf16")],
)
def test_precisions_however_spelled(spelled: str, plain: str):
    assert predicted(precision=spelled).value == predicted(precision=plain).value


def test_phases_however_spelled():
    assert predicted(phase="sft").value == predicted(phase="finetune").value == predicted().value
    assert predicted(phase="LoRA").value > predicted().value


def test_younger_software_is_faster():
    assert predicted(date="2024-01").value < predicted(date="2025-01").value < predicted(date="2026-01").value
    assert predicted(date="2025-01").value == predicted(date="").value


def test_a_told_data_parallel_size_leaves_the_rest_to_tensor_and_pipeline():
    assert isclose(predicted(dp="2").value, predicted(dp="2", tp="8", pp="1").value, rel_tol=1e-9)


def test_each_replica_has_a_sequence():
    few = {"framework": "MaxText", "device": "tpu-v4", "devices": "512", "model": "llama3-70b"}
    told, untold = predicted(**few, tp="4", global_batch="128"), predicted(**few, global_batch="128")
    assert isclose(told.value, untold.value, rel_tol=1e-9)


def test_a_tpu_is_programmed_through_xla_whatever_the_row_tells():
    full = {"device": "tpu-v5p", "model": "llama3-70b", "devices": "256", "recompute": "full"}
    assert predicted(**full, framework="").value == predicted(**full, framework="in-house JAX").value


def test_repeated_work_is_counted_where_a_stack_counts_it():
    full = {"recompute": "full", "metric": "tflops_per_gpu", "unit": "TFLOPS/GPU"}
    early, late = predicted(date="2022-12", **full), predicted(date="2023-01", **full)
    assert early.value / late.value == pytest.approx(4 / 3, rel=0.01)
    hfu, mfu = (predicted(recompute="full", metric=m, unit="fraction").value for m in ("hfu", "mfu"))
    assert hfu / mfu == pytest.approx(4 / 3)


def published(source: str, times: float) -> list[dict[str, str]]:
    """Two rows of one source that measured `times` what is predicted of it."""
    rows = [ROW | {"id": f"{source}{b}", "source": source, "global_batch": b} for b in ("64", "256")]
    found = predict_results(rows, catalogue(), named_models(), CONSTANTS)
    return [r | {"value": str(times * p.value)} for r, p in zip(rows, found, strict=True)]


def test_a_left_out_source_tells_nothing_of_its_prediction_nor_of_its_interval():
    others = [*published("a", 0.9), *published("b", 1.1), *published("c", 1.0)]

    def left_out(times: float):
        rows = [*others, *published("d", times)]
        return next(p for p in leave_out(rows, catalogue(), named_models()) if p.group == "d")

    near, far = left_out(1.0), left_out(3.0)
    assert near.wide == pytest.approx(far.wide) and (near.wide > 0).all()
    assert far.errors - near.errors == pytest.approx(np.full(2, -np.log(3)))


def test_pairs_of_the_bench_differ_in_a_setting_and_by_ten_percent(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "bench"))
    bench = importlib.import_module("leave_out")
    cells = dict.fromkeys(bench.SETTINGS, "") | ROW

    def answer(value: float, error: float, **other: str):
        return bench.Answer(cells | other | {"value": str(value)}, error, True)

    first = answer(100, 0.0, tp="1")
    repeated, close = answer(200, 0.0, tp="1"), answer(105, 0.0, tp="2")
    right, wrong, level = (
        answer(120, 0.0, tp="2"),
        answer(120, -0.3, tp="2"),
        answer(120, -np.log(1.2), tp="2"),
    )
    assert bench.pairs([first, repeated])["pairs"] == bench.pairs([first, close])["pairs"] == 0
    assert [bench.pairs([first, other])["right"] for other in (right, wrong, level)] == [1.0, 0.0, 0.0]


# ------------------------------------------------------------------ peak memory

PEAK = {
    "phase": "finetune", "model": "mistral-7b", "device": "a100-80-sxm", "devices": "1", "dp": "1",
    "framework": "fms-hf-tuning 2.1.0 LoRA r4", "micro_batch": "8", "global_batch": "32", "seq_len": "4096",
    "recompute": "full", "zero_stage": "0", "metric": "peak_memory_bytes_per_device", "unit": "bytes",
}  # fmt: skip
FSDP = {
    "devices": "4",
    "dp": "4",
    "zero_stage": "3",
    "framework": "fms-hf-tuning 0.4.0.1.0 FSDP full fine-tune",
}


@pytest.mark.parametrize(
    ("cells", "measured", "off"),
    [
        ({}, 44_845_000_000, 0.08),
        ({"micro_batch": "1", "global_batch": "4", "seq_len": "512"}, 16_254_000_000, 0.08),
        ({"micro_batch": "64", "global_batch": "256", "seq_len": "512"}, 44_832_000_000, 0.08),
        (FSDP | {"micro_batch": "1", "global_batch": "16", "seq_len": "512"}, 38_588_000_000, 0.2),
        (FSDP | {"micro_batch": "4", "global_batch": "64", "seq_len": "4096"}, 46_522_000_000, 0.2),
    ],
)
def test_peak_memory_of_fine_tuning_as_measured(cells: dict[str, str], measured: float, off: float):
    """LLMFineTuningBench (IBM): NVML's used memory of the fullest GPU, all in 16 bits."""
    found = predicted(**PEAK | cells)
    assert found.value == pytest.approx(measured, rel=off)
    assert found.low < measured < found.high


@pytest.mark.parametrize(
    ("metric", "unit", "factor"),
    [("peak_memory", "GiB", 2.0**-30), ("Peak memory per GPU", "GB", 1e-9), ("max_memory_gb", "", 1e-9)],
)
def test_peak_memory_however_spelled(metric: str, unit: str, factor: float):
    found = predicted(**PEAK | {"metric": metric, "unit": unit})
    assert isclose(found.value, factor * predicted(**PEAK).value, rel_tol=1e-9)


def test_peak_memory_in_an_unknown_unit_is_refused():
    assert "peak_memory in tokens" in predicted(**PEAK | {"metric": "peak_memory", "unit": "tokens"}).reason


def test_a_run_at_the_ceiling_is_told_to_fit():
    """13 billion parameters on two A100 ran with memory full: an allocator gives back what it keeps."""
    row = PEAK | FSDP | {"model": "llama-13b", "device": "a100-80-pcie", "devices": "2", "dp": "2"}
    row |= {"micro_batch": "1", "global_batch": "8", "seq_len": "512", "value": "85770000000"}
    scores = score_results([ROW | row], catalogue(), named_models(), CONSTANTS)
    assert scores.groups["memory"]["told_to_fit"] == 1.0
    assert scores.predictions[0].value <= catalogue().find("a100-80-pcie").memory_bytes


def test_memory_is_no_row_of_a_fit():
    rows = [ROW | {"id": "t", "value": "900"}, ROW | PEAK | {"id": "m", "value": "44845000000"}]
    assert [part.ids for part in leave_out(rows, catalogue(), named_models(), intervals=False)] == [["t"]]


def test_rows_that_were_fitted_are_marked():
    rows = [ROW | {"id": "a", "value": "900"}, ROW | {"id": "b", "value": "901"}]
    fitted = {row_key(rows[0] | {"id": "other"})}
    scores = score_results(rows, catalogue(), named_models(), CONSTANTS, fitted)
    assert scores.groups["train"]["in_fit"] == 0.5
