from __future__ import annotations

import numpy as np
import pytest

from steelyard.hardware import catalogue, named_models, published_constants
from steelyard.planner import Constants, predict_results
from steelyard.planner.published.constants import groups
from steelyard.planner.published.results import read_rows

CONSTANTS = Constants.from_json(published_constants())
ROW = {
    "id": "x",
    "source": "s",
    "phase": "serve",
    "model": "llama3-8b",
    "precision": "bf16",
    "device": "h100-sxm",
}
ROW |= {"devices": "1", "framework": "vLLM", "prompt_len": "512", "output_len": "128", "concurrency": "16"}
ROW |= {"metric": "output_tokens_per_s", "unit": "tokens/s", "value": ""}


def predicted(constants: Constants = CONSTANTS, **cells: str):
    (found,) = predict_results([ROW | cells], catalogue(), named_models(), constants)
    return found


def value(**cells: str) -> float:
    found = predicted(**cells)
    assert found.value, found.reason
    return found.value


@pytest.mark.parametrize(
    ("cells", "same"),
    [
        ({"metric": "tps", "unit": "tps"}, {}),
        ({"metric": "Output Throughput", "unit": "tok/sec"}, {}),
        ({"metric": "generation_throughput", "unit": "tokens per second"}, {}),
        ({"precision": "BF16"}, {}),
        ({"precision": "bfloat16"}, {}),
        ({"precision": "fp8_e4m3"}, {"precision": "fp8", "weight_bits": "8"}),
        ({"precision": "w8a8"}, {"precision": "int8", "weight_bits": "8"}),
        ({"precision": "awq"}, {"precision": "int4", "weight_bits": "4"}),
        ({"precision": "GPTQ-Int4"}, {"precision": "w4a16"}),
        ({"precision": "nf4"}, {"precision": "int4", "weight_bits": "4"}),
        ({"device": "b200", "precision": "nvfp4"}, {"device": "b200", "precision": "mxfp4"}),
        ({"framework": "llama.cpp", "concurrency": ""}, {"framework": "Ollama", "concurrency": "1"}),
        ({"phase": "decode", "concurrency": ""}, {"phase": "decode", "concurrency": "1"}),
        ({"phase": "Serve ", "concurrency": ""}, {"concurrency": ""}),
        ({"phase": "inference", "concurrency": ""}, {"concurrency": ""}),
        ({"phase": " Decode", "concurrency": ""}, {"phase": "decode", "concurrency": ""}),
        ({"phase": "PREFILL"}, {"phase": "prefill"}),
        ({"metric": " TPS", "unit": "Tokens/s "}, {}),
        ({"framework": "vllm ", "device": " H100-SXM", "precision": " Fp16"}, {"precision": "fp16"}),
        ({"framework": "rocm/vllm", "device": "mi300x"}, {"device": "mi300x"}),
    ],
)
def test_a_row_means_the_same_however_it_is_spelled(cells, same):
    assert value(**cells) == pytest.approx(value(**same))


@pytest.mark.parametrize(("device", "host"), [("gb200", "4"), ("gb300", "4"), ("tpu-v5e", "8")])
def test_links_that_reach_beyond_a_host_do_so_whatever_it_holds(device, host):
    cells = {"device": device, "devices": "16", "tp": "16", "model": "llama3-70b"}
    assert value(devices_per_node=host, **cells) == value(devices_per_node="", **cells)


@pytest.mark.parametrize("device", ["b300", "gb300", "v100-32", "h100-sxm"])
def test_8_bit_integer_weights_are_no_slower_than_16_bit_ones_where_few_requests_wait(device):
    """Where integers are multiplied slower than 16-bit floats they are unpacked first."""
    cells = {"device": device, "devices": "8", "tp": "8", "model": "llama3-70b"}
    assert value(precision="int8", weight_bits="8", **cells) > value(precision="fp16", **cells)


def test_times_and_rates_of_one_row_agree():
    tpot_s = value(metric="tpot", unit="ms") / 1e3
    assert value(metric="tokens_per_s", unit="tokens/s/user") == pytest.approx(1 / tpot_s)
    latency_s = value(metric="e2e_latency_ms", unit="ms") / 1e3
    assert latency_s == pytest.approx(value(metric="ttft", unit="s") + 127 * tpot_s)
    assert value(metric="qps", unit="req/s") * 128 == pytest.approx(value())


def test_a_gguf_weight_has_the_bits_of_its_name():
    by_bits = [value(precision=f"q{bits}_k_m", framework="llama.cpp", concurrency="1") for bits in (4, 5, 6)]
    assert by_bits == sorted(by_bits, reverse=True) and len(set(by_bits)) == 3


@pytest.mark.parametrize("metric", ["p99_ttft_ms", "requests_per_min"])
def test_what_is_no_mean_and_no_rate_a_second_is_refused(metric):
    found = predicted(metric=metric, unit="ms")
    assert found.value is None and "not known" in found.reason


def test_prefills_before_the_first_token_do_not_stand_between_the_others():
    """Work is kept: what one waits for before its first token is not waited for again after it."""
    late = Constants(logs=CONSTANTS.logs | {"serve.burst@own:h100-sxm/vllm": 2.0})
    cells = {"metric": "ttft", "unit": "ms", "concurrency": "64"}
    assert predicted(late, **cells).value > 1.5 * predicted(**cells).value
    cells["metric"] = "tpot"
    assert predicted(late, **cells).value < predicted(**cells).value


def test_a_load_offered_at_once_runs_out_sooner_where_few_waves_carry_it():
    """Of 1,000 unequal requests the last ones leave a large batch emptier for longer."""
    share = [
        value(concurrency="", output_len="201", **kv) / value(concurrency="", output_len="200", **kv)
        for kv in ({}, {"model": "qwen3-32b"})  # its KV cache leaves room for some sixty
    ]
    assert share[0] < share[1] < 1


def test_many_small_experts_fill_slower_than_few_large_ones():
    base = {"phase": "prefill", "metric": "ttft", "unit": "ms", "concurrency": "1", "prompt_len": "2048"}
    models = named_models()
    rates = {}
    for name in ("mixtral-8x7b", "qwen3-235b-a22b"):
        active = float(models[name]["active_b"])
        rates[name] = active / value(**base, model=name, devices="8", tp="8")
    assert rates["mixtral-8x7b"] > rates["qwen3-235b-a22b"]


def test_engines_of_one_device_differ_by_their_port():
    """vLLM on GPU Max launches kernels one by one; on H100 it captures graphs."""
    groups = [{"family": f, "stack": "vllm", "port": f"vllm/{f}"} for f in ("nvidia", "intel")]
    captured, eager = (CONSTANTS.value("serve.layer_s", g) for g in groups)
    assert eager > 2 * captured
    assert np.isfinite([captured, eager]).all()


def test_a_model_that_slides_a_window_is_read_and_filled_no_wider():
    """Mistral 7B had one of 4,096 tokens in its first release, else the two have the same sizes."""
    cells = {"metric": "ttft", "unit": "ms", "concurrency": "8", "output_len": "256"}
    for metric in ("ttft", "tpot"):
        first, later = (
            [
                value(model=name, prompt_len=length, **cells | {"metric": metric})
                for length in ("2048", "24576")
            ]
            for name in ("mistral-7b", "mistral-7b-v0.2")
        )
        assert first[0] == later[0] and first[1] < 0.95 * later[1]


def test_a_window_leaves_room_for_more_requests():
    cells = {"concurrency": "", "prompt_len": "24576", "output_len": "4096"}
    assert value(model="mistral-7b", **cells) > 1.5 * value(model="mistral-7b-v0.2", **cells)


R1 = {
    "model": "deepseek-r1",
    "precision": "fp8",
    "device": "h200",
    "devices": "8",
    "tp": "8",
    "framework": "SGLang",
}


def setup(**cells: str):
    """The setup that a row is read as."""
    tables, refused = read_rows([ROW | R1 | cells], catalogue(), named_models())
    assert not refused, refused
    return tables["serve"].setup, tables["serve"].extra


def test_the_framework_cell_tells_experts_attention_apart_and_drafts():
    plain, _ = setup()
    assert (plain.t[0], plain.e[0], plain.draft[0]) == (8, 1, 0)
    spread, _ = setup(framework="SGLang, EP 8")
    assert (spread.t[0], spread.e[0]) == (8, 8)
    apart, extra = setup(framework="TensorRT-LLM, EP 8, DP attention", concurrency="64")
    assert (apart.t[0], apart.e[0], apart.batch[0], extra["replicas"][0]) == (1, 8, 8, 8)
    drafted, _ = setup(framework="SGLang, MTP")
    assert drafted.draft[0] > 0
    dense, _ = setup(model="llama3-70b", framework="vLLM, EP 8, DP attention")
    assert (dense.t[0], dense.e[0]) == (8, 1)


def test_a_multi_token_prediction_is_faster_and_attention_apart_keeps_its_cache_once():
    latency = {"metric": "ms_per_output_token", "unit": "ms", "concurrency": "8"}
    assert value(**R1 | latency | {"framework": "SGLang, MTP"}) < value(**R1 | latency)
    long = {"prompt_len": "64000", "concurrency": "256", "output_len": "1024"}
    together, apart = (value(**R1 | long | {"framework": f"SGLang, EP 8{x}"}) for x in ("", ", DP attention"))
    assert apart > 1.3 * together  # a latent cache is whole on each device of a group


def test_plain_vllm_on_a_cpu_spends_host_time_and_devices_of_one_die_deviate_alike():
    cells = {"model": "qwen3-0.6b", "device": "xeon-8480plus", "metric": "ms_per_output_token", "unit": "ms"}
    step_ms = value(**cells, framework="vLLM CPU", concurrency="1") - value(
        **cells, framework="openvino", concurrency="1"
    )
    assert step_ms > 3
    mi325x, mi300x = (groups(catalogue().find(name), "vllm") for name in ("mi325x", "mi300x"))
    assert mi325x["device"] == mi300x["device"] and mi325x["own"] != mi300x["own"]
    assert CONSTANTS.provenance_of("serve", mi325x) == "modelled" != CONSTANTS.provenance_of("serve", mi300x)
