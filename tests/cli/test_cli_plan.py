"""plan, hardware and validate as a user types them; the planner's own figures are tested in its room."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from steelyard.cli.telling import messages, options, output

GOLDEN = Path(__file__).with_name("golden_plan_document.json")
JOB = ("plan", "--model", "llama3-8b", "--tokens", "1e8", "--device", "gaudi2", "--device", "h100-sxm")


def form_of(value: Any) -> Any:
    """Keys and kinds of a document: what scripts rely on, whatever the figures are."""
    if isinstance(value, dict):
        return {key: form_of(item) for key, item in value.items()}
    if isinstance(value, list):
        return [form_of(value[0])] if value else []
    return (
        "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
    )


def test_the_document_keeps_its_form(told) -> None:
    code, document = told(*JOB, "--explain")
    best = document["plans"][document["best"]]
    # Open tables: names with a number or a word each.
    for name in ("settings", "parts", "bytes", "costs", "terms"):
        assert best[name] and all(isinstance(key, str) for key in best[name])
        best[name] = {}
    form = form_of(document | {"plans": [best], "request": {}})
    assert code == 0 and form == json.loads(GOLDEN.read_text())


def test_every_flag_arrives(told) -> None:
    _, document = told(
        *("plan", "--model", "llama3-8b", "--job", "serve", "--tokens", "1e6", "--device", "h100-sxm"),
        *(
            "--arrival-rate",
            "90/min",
            "--burstiness",
            "4",
            "--prompt-tokens",
            "700",
            "--output-tokens",
            "200",
        ),
        *("--ttft", "800ms", "--tpot", "60ms", "--percentile", "95", "--budget", "9000 JPY at 0.0067"),
        *(
            "--deadline",
            "8h",
            "--memory",
            "64GB",
            "--power",
            "20kW",
            "--provider",
            "aws",
            "--trust",
            "sealed",
        ),
        *("--energy",),
    )
    asked = document["request"]
    assert (asked["job"], asked["arrival_per_s"], asked["burstiness"]) == ("serve", 1.5, 4.0)
    assert asked["slo"] == {"ttft_s": 0.8, "tpot_s": 0.06, "percentile": 95.0}
    assert asked["budget_usd"] == pytest.approx(60.3) and asked["deadline_s"] == 28800
    assert (asked["memory_limit_bytes"], asked["power_limit_w"]) == (64e9, 20e3)
    assert (asked["providers"], asked["trust"], asked["objective"]) == (["aws"], "sealed", "energy")
    assert (asked["prompt_tokens"], asked["output_tokens"]) == (700, 200)


def test_what_is_cached_and_guessed_arrives_and_is_left_out_where_it_does_not_pay(told) -> None:
    words = ("plan", "--model", "llama3-70b", "--job", "serve", "--device", "h100-sxm", "--users", "4")
    guesses = ("--prefix-hit", "0.5", "--draft", "llama3.2-1b", "--draft-tokens", "3", "--accept")
    code, document = told(*words, *guesses, "0.8")
    asked, (best,) = document["request"], document["plans"]
    assert code == 0 and asked["draft_params"] > 1e9
    assert (asked["prefix_hit"], asked["draft_tokens"], asked["accept"]) == (0.5, 3, 0.8)
    assert best["settings"]["draft_tokens"] == 3 and best["settings"]["prefix_hit"] == 0.5
    code, streams = told(*words, *guesses, "0.01", as_json=False)
    assert code == 0 and "does not pay" in str(streams)


def test_a_model_by_its_sizes_is_the_model_by_its_name(told, tmp_path) -> None:
    sizes = ("--layers", "32", "--hidden", "4096", "--heads", "32", "--kv-heads", "8", "--ffn", "14336")
    _, by_sizes = told("plan", *sizes, "--vocab", "128256", "--tokens", "1e8", "--device", "gaudi2")
    _, by_name = told(*JOB[:-2])
    assert by_sizes["request"]["params"] == pytest.approx(by_name["request"]["params"], rel=0.01)
    config = {"num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "vocab_size": 128256}
    config |= {"num_key_value_heads": 8, "intermediate_size": 14336, "model_type": "llama"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for model in ("config.json", "."):
        _, by_file = told("plan", "--model", model, "--tokens", "1e8", "--device", "gaudi2")
        assert by_file["request"]["params"] == by_sizes["request"]["params"]


def test_experts_are_counted_once_and_used_by_few(told) -> None:
    sizes = ("--layers", "32", "--hidden", "4096", "--heads", "32", "--kv-heads", "8", "--ffn", "14336")
    more = ("--experts", "8", "--experts-per-token", "2", "--device", "h100-sxm")
    _, document = told("plan", *sizes, *more, "--tokens", "1e7")
    assert document["request"]["params"] == pytest.approx(46.7e9, rel=0.01)  # Mixtral 8x7B


@pytest.mark.parametrize(
    ("text", "usd"), [("50", 50), ("50 USD", 50), ("300 CNY", 300 / 7.189), ("100 GBP at 1.28", 128)]
)
def test_a_budget_in_any_currency(told, text: str, usd: float) -> None:
    _, document = told(*JOB, "--budget", text)
    assert document["request"]["budget_usd"] == pytest.approx(usd)


@pytest.mark.parametrize(
    ("limit", "name"), [(("--budget", "0.01"), "budget"), (("--deadline", "2s"), "deadline")]
)
def test_what_cannot_be_met_names_the_tightest_limit_and_the_nearest_plan(told, limit, name: str) -> None:
    code, document = told(*JOB, *limit)
    assert code == 3 and document["best"] is None
    assert document["error"]["code"] == "plan.no_fit" and document["error"]["where"]["field"] == name
    assert document["tightest"]["limit"] == name and document["tightest"]["needed_over_allowed"] > 1
    near = document["plans"][document["nearest"]]
    assert near["device"] in document["error"]["why"] and not near["fits"]
    code, (out, err) = told(*JOB, *limit, as_json=False)
    assert code == 3 and "no device fits; the nearest:" in out.splitlines() and name in err


def test_explain_sums_to_the_whole(told) -> None:
    _, document = told(*JOB, "--explain")
    best, rows = document["plans"][document["best"]], document["explain"]
    seconds = sum(row["value"] for row in rows if row["of"] == "time")
    assert seconds == pytest.approx(best["time_s"]["value"], rel=1e-6)
    held = sum(row["value"] for row in rows if row["of"] == "memory")
    assert held == pytest.approx(best["memory_bytes_per_device"]["value"], rel=1e-6)
    assert {row["of"] for row in rows} >= {"time", "memory"}


def test_why_not_and_what_if(told) -> None:
    _, document = told(*JOB, "--why-not", "Gaudi-2", "--what-if", "price.gaudi2=0.5")
    assert set(document["why_not"]) == {"gaudi2"} and document["why_not"]["gaudi2"]
    changed = document["what_if"]
    assert changed["changes"] == {"price.gaudi2": 0.5}
    assert changed["before"]["device"] == "h100-sxm" and changed["after"]["device"] == "gaudi2"


def test_the_table_for_people(told, monkeypatch) -> None:
    words = (*JOB, "--explain", "--what-if", "price.h100-sxm=x0.1")
    monkeypatch.setattr(sys, "argv", ["steelyard", *words, "--why-not=gaudi2"])
    code, (out, _) = told(*words, as_json=False)
    lines = out.splitlines()
    assert code == 0 and lines[0] == "Can it be done? yes, on 2 of 2 devices weighed"
    asked = [line for line in lines if line.startswith(("With what?", "For how much?", "How sure?"))]
    assert len(asked) == 3 and ", in " in asked[0] and "$" in asked[1] and "8 of 10" in asked[2]
    at = next(i for i, line in enumerate(lines) if "sft of llama3-8b" in line)
    assert (
        lines[at + 2].startswith(">") and lines[-1] == f"next: steelyard {' '.join(JOB)} --export plan-files"
    )
    assert lines[at + 1].count("80 % interval") == 2 and lines[at + 2].count(" .. ") == 2
    assert "where each second, byte and dollar goes:" in lines
    _, (chinese, _) = told(*JOB, "--lang", "zh", as_json=False)
    assert "80 % 区间" in chinese and "下一步" in chinese.splitlines()[-1]


def test_a_service_is_shown_by_its_latencies_and_its_price_an_hour(told) -> None:
    load = ("--arrival-rate", "2/s", "--prompt-tokens", "700", "--output-tokens", "200", "--ttft", "2s")
    _, (out, _) = told("plan", "--model", "llama3-8b", "--job", "serve", *load, as_json=False)
    lines = out.splitlines()
    assert "2 requests a second" in " ".join(lines) and "the first token after" in " ".join(lines[:3])
    at = next(i for i, line in enumerate(lines) if "TTFT" in line)
    head, best = lines[at : at + 2]
    assert head.split()[:5] == ["device", "TTFT", "TPOT", "tok/s", "USD/h"] and best.startswith(">")
    assert (best + lines[at + 2]).count(" .. ") == 2


SERVE = ("plan", "--model", "llama3-70b", "--job", "serve", "--users", "20", "--all")


@pytest.mark.parametrize("words", [(*JOB, "--explain", "--all"), SERVE, ("plan", "--claims")])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_eighty_columns_hold(told, words, language: str) -> None:
    """No line is longer, so that no terminal breaks one within a word; claims quote texts of any length."""
    _, (out, _) = told(*words, "--lang", language, as_json=False)
    wide = [line for line in out.splitlines() if output._width(line) > 80]
    assert out and (wide == [] or "--claims" in words)


def test_six_devices_are_shown_and_all_on_request(told) -> None:
    _, (few, _) = told("plan", "--model", "llama3-8b", "--tokens", "1e8", as_json=False)
    _, (many, _) = told("plan", "--model", "llama3-8b", "--tokens", "1e8", "--all", as_json=False)
    assert "more with --all" in few and "more with --all" not in many
    assert len(many.splitlines()) > len(few.splitlines()) + 50


@pytest.mark.parametrize(("word", "job"), [("finetune", "sft"), ("dpo", "prefer"), ("inference", "serve")])
def test_jobs_by_the_words_that_people_bring(told, word: str, job: str) -> None:
    _, document = told("plan", "--model", "llama3-8b", "--job", word, "--device", "h100-sxm")
    assert document["request"]["job"] == job


def test_a_short_name_of_a_device_is_said_in_full(told) -> None:
    code, (_, err) = told("plan", "--model", "llama3-8b", "--device", "H100", as_json=False)
    assert code == 0 and "H100 is taken as h100-sxm" in err and "h100-pcie" in err


@pytest.mark.parametrize("text", ["50M", "5e7", "50_000_000", "0.05B"])
def test_tokens_as_people_write_them(told, text: str) -> None:
    _, document = told("plan", "--model", "llama3-8b", "--tokens", text, "--device", "gaudi2")
    assert document["request"]["tokens"] == 5e7


def test_this_machine_is_a_device_by_flags(told, monkeypatch) -> None:
    """Without a calibration it is left out; with one it is planned with its settings and their origins."""
    calibrated(monkeypatch)
    words = ("plan", "--model", "qwen3-0.6b", "--job", "sft", "--finetuning-type", "lora", "--tokens", "1M")
    code, document = told(*words, "--device", "this-machine")
    assert code == 0 and [p["device"] for p in document["plans"]] == ["this-machine"]
    steps, stage = document["here"]["steps"], document["here"]["settings"]["train"][0]
    assert set(steps) == {"clean", "train", "compress", "gate", "serve"} and stage["lora_rank"] == 16
    assert document["here"]["origins"]["train.0.learning_rate"].startswith("plan: ")
    _, (out, _) = told(*words, as_json=False)
    lines = out.splitlines()
    (here,) = [line for line in lines if line.startswith("this machine (")]
    assert "in all" in here
    assert any("lora_rank" in line and "plan: enough for one task" in line for line in lines)
    assert out.index("this machine  ") < out.index("\n>")
    code, document = told(*words[:4], "prefer", "--device", "this-machine")
    assert (code, document["error"]["code"]) == (2, "plan.job_here")


def calibrated(monkeypatch) -> None:
    """The probes take a minute: here an empty calibration stands for them (its rates are the vendor's)."""
    from steelyard.hardware import Calibration
    from steelyard.run.planning import weighing

    known = {"taken": (), "skipped": {}, "measured_s": 0.0, "path": ""}
    found = Calibration(fingerprint="test", rows=(), **known)
    monkeypatch.setattr(weighing, "recall", lambda machine: found)
    monkeypatch.setattr(weighing, "calibrate", lambda machine, finetuning_types, watch: found)


def test_every_reason_has_its_chinese(told) -> None:
    """Whatever the planner says of a device is told in Chinese too: no Latin word but units and names."""
    limits = ("--budget", "0.05", "--deadline", "20s", "--power", "2kW", "--trust", "sealed")
    serve = ("plan", "--model", "llama3-70b", "--job", "serve", "--arrival-rate", "40/s", "--ttft", "80ms")
    _, weighed = told("plan", "--model", "llama3-8b", "--tokens", "1e8")
    reasons = {p["why_not"] for p in weighed["plans"] if p["why_not"]}
    for words in ((*serve,), ("plan", "--model", "llama3-8b", "--tokens", "1e8", *limits)):
        reasons |= {p["why_not"] for p in told(*words)[1]["plans"] if p["why_not"]}
    options.OPTIONS.language = "zh"
    left = {r for r in reasons for part in messages.reason(r).split("；") if part in r.split("; ")}
    assert len(reasons) > 20 and not left


def test_claims(told) -> None:
    code, document = told("plan", "--claims")
    verdicts = {claim["id"]: claim["verdict"] for claim in document["claims"]}
    assert code == 0 and len(verdicts) >= 34 and verdicts["gpt3-compute"] == "does not hold"
    _, (out, _) = told("plan", "--claims", as_json=False)
    assert "gaudi3-hbm" in out and "not for a plan to judge" in out


@pytest.mark.parametrize(
    ("words", "code", "message", "hint"),
    [
        (("--model", "lama3-8b"), "model.unknown", "lama3-8b", "llama3-8b"),
        (("--model", "llama3-8b", "--device", "gadi2"), "device.unknown", "gadi2", "gaudi2"),
        (("--model", "llama3-8b", "--why-not", "h10-sxm"), "device.unknown", "h10-sxm", "h100-sxm"),
        (("--model", "llama3-8b", "--job", "serv"), "cli.usage", "serv", "did you mean serve"),
        (("--job", "sft"), "cli.usage", "--model", "--layers"),
        (("--layers", "8", "--hidden", "512"), "plan.sizes", "--heads", "--heads 32"),
        (("--layers", "-8", "--hidden", "512", "--heads", "8"), "plan.sizes", "-8", "--layers"),
        (("--layers", "8", "--hidden", "500", "--heads", "7"), "plan.sizes", "7 heads", "--head-dim"),
        (("--layers", "8", "--hidden", "512", "--heads", "8", "--kv-heads", "3"), "plan.sizes", "3", "8"),
        (
            (
                "--layers",
                "8",
                "--hidden",
                "512",
                "--heads",
                "8",
                "--experts",
                "4",
                "--experts-per-token",
                "9",
            ),
            "plan.sizes",
            "9 experts of 4",
            "--experts 8",
        ),
        (("--model", "llama3-8b", "--tokens", "inf"), "plan.tokens", "above 0", "1e9"),
        (("--model", "llama3-8b", "--deadline", "0"), "cli.usage", "--deadline", "8h"),
        (("--model", "llama3-8b", "--memory", "0"), "cli.usage", "--memory", "64GB"),
        (("--model", "llama3-8b", "--ttft", "1s", "--percentile", "42"), "cli.usage", "42", "95"),
        (("--model", "llama3-8b", "--burstiness=-1"), "cli.usage", "-1", "4"),
        (("--model", "llama3-8b", "--draft", "lookup"), "cli.usage", "--draft", "--job serve"),
        (("--model", "llama3-8b", "--job", "serve", "--accept", "0.5"), "cli.usage", "--accept", "--draft"),
        (("--model", "llama3-8b", "--job", "serve", "--draft", "lookup"), "plan.accept", "taken", "metrics"),
        (
            ("--model", "llama3-8b", "--job", "serve", "--prefix-hit", "1.5"),
            "plan.prefix_hit",
            "1.5",
            "0.6",
        ),
        (("--model", "llama3-8b", "--provider", "awz"), "plan.provider", "awz", "did you mean aws"),
        (("--model", "llama3-8b", "--tokens", "many"), "cli.usage", "many", "50M"),
        (("--model", "llama3-8b", "--tokens=-1"), "plan.tokens", "above 0", "1e9"),
        (("--model", "llama3-8b", "--budget", "9000 JPY"), "cli.usage", "JPY", "at 0.0067"),
        (("--model", "llama3-8b", "--budget", "much"), "cli.usage", "much", "300 CNY"),
        (("--model", "llama3-8b", "--deadline", "soon"), "units.seconds", "soon", "8h"),
        (("--model", "llama3-8b", "--memory", "big"), "units.bytes", "big", "24GB"),
        (("--model", "llama3-8b", "--power", "big"), "cli.usage", "big", "20kW"),
        (("--model", "llama3-8b", "--arrival-rate", "often"), "cli.usage", "often", "2/s"),
        (("--model", "llama3-8b", "--percentile", "95"), "cli.usage", "--percentile", "--ttft"),
        (("--model", "llama3-8b", "--trust", "total"), "plan.trust", "total", "sealed"),
        (("--model", "llama3-8b", "--finetuning-type", "dora"), "plan.finetuning_type", "dora", "qlora"),
        (("--model", "llama3-8b", "--what-if", "price"), "plan.what_if", "price", "price.h100-sxm=2.1"),
        (("--model", "llama3-8b", "--price", "h100-sxm=2.1"), "plan.price_class", "class", "reserved"),
        (("--model", "llama3-8b", "--price", "h100-sxm=cheap/spot"), "plan.price", "cheap", "2.10/reserved"),
        (("--model", "llama3-8b", "--price-class", "cheap"), "plan.price_class", "cheap", "vendor"),
        (("--model", "llama3-8b", "--what-if", "smell.gaudi2=1"), "plan.what_if", "smell", "price"),
        (("--model", "llama3-8b", "--precision", "fp7"), "plan.precision", "fp7", "fp8"),
        (("--model", "llama3-8b", "--precision", "int8"), "plan.precision", "int8", "fp8"),
        (("--model", "llama3-8b", "--kv-precision", "nvfp"), "plan.precision", "nvfp", "fp8"),
        (("--model", "llama3-8b", "--global-batch", "0"), "cli.usage", "--global-batch", "64"),
        (("--model", "llama3-8b", "--job", "serve", "--spot"), "cli.usage", "--spot goes", "sft"),
        (("--model", "llama3-8b", "--teacher-params", "7e10"), "cli.usage", "distillation", "distil"),
        (("--precision", "int8"), "cli.usage", "--precision goes with", "compress.weights"),
        (("r.yaml", "--model", "llama3-8b"), "cli.usage", "not of both", "leave one"),
    ],
)
def test_a_bad_plan_is_one_clear_error(told, words, code: str, message: str, hint: str) -> None:
    exit_code, document = told("plan", *words)
    error = document["error"]
    assert (exit_code, error["code"]) == (2, code)
    assert message in error["message"] and hint in error["hint"]


RECIPE = """\
model: demo
train: []
goal:
  load: {arrival_rate: 2/s, burstiness: 2.0, prompt_tokens: 300, output_tokens: 100}
  latency: {ttft: 2s, percentile: 95}
resources: {memory: 64GB, providers: [aws]}
trust: sealed
"""


def test_a_recipe_is_weighed_by_its_own_words_and_the_flags(told, tmp_path) -> None:
    (tmp_path / "steelyard.yaml").write_text(RECIPE)
    code, document = told("plan", "--device", "h100-sxm", "--device", "xeon-8592plus", "--budget", "500 CNY")
    asked = document["request"]
    assert code == 0 and asked["budget_usd"] == pytest.approx(500 / 7.189)
    assert (asked["arrival_per_s"], asked["burstiness"], asked["trust"]) == (2.0, 2.0, "sealed")
    assert asked["slo"] == {"ttft_p95_s": 2.0} and asked["providers"] == ["aws"]
    assert asked["memory_limit_bytes"] == 64e9
    assert document["plans"][document["best"]]["steps"]
    _, (out, _) = told("plan", "--device", "h100-sxm", "--budget", "500 CNY", as_json=False)
    (line,) = [line for line in out.splitlines() if "then the service" in line]
    assert "an hour, TTFT" in line


ROWS = "".join(
    json.dumps(
        {"messages": [{"role": "user", "content": "q " * n}, {"role": "assistant", "content": "a " * n}]}
    )
    + "\n"
    for n in range(4, 104)
)
TRAINED = (
    "model: demo\ndata: [{path: rows.jsonl}]\ntrain: [{stage: sft, finetuning_type: lora, max_length: 512}]\n"
)


def weighed(told, tmp_path, *changes: str) -> tuple[int, dict[str, Any]]:
    """The plan of a recipe that trains, on one device, with words of it changed."""
    (tmp_path / "rows.jsonl").write_text(ROWS)
    (tmp_path / "steelyard.yaml").write_text(TRAINED)
    return told("plan", "--device", "h100-sxm", *(word for c in changes for word in ("--set", c)))


def test_the_rows_that_the_gate_has_and_needs_stand_in_the_plan_of_a_recipe(told, tmp_path) -> None:
    code, document = weighed(told, tmp_path)
    gate = document["here"]["gate"]
    main = gate["abilities"]["main"]
    assert code == 0 and (main["held_out"], main["pairs"], main["enough"]) == (20, 100, False)
    assert main["pairs_needed"] > 100 and any("write gate: {tolerance:" in note for note in gate["notes"])
    _, document = weighed(told, tmp_path, "gate.tolerance=0.12")
    main = document["here"]["gate"]["abilities"]["main"]
    assert main["tolerance"] == 0.12 and main["pairs_needed"] <= 100
    options.OPTIONS.language = "zh"
    left = [part for note in gate["notes"] for part in note.split("; ") if part in messages.reason(note)]
    assert len(gate["notes"]) == 3 and not left


def test_a_service_that_no_device_can_give_is_no_plan(told, tmp_path) -> None:
    load = "goal.load.arrival_rate=2/s"
    code, document = weighed(told, tmp_path, load, "goal.latency.ttft_p95=0.1ms")
    assert code == 3 and document["best"] is None and document["tightest"]["limit"] == "ttft"
    near = document["plans"][document["nearest"]]
    assert not near["fits"] and "the step serve; ttft of" in near["why_not"]
    assert near["steps"][-1]["ttft_s"] > 1e-4
    code, document = weighed(told, tmp_path, load, "goal.latency.ttft_p95=2s")
    assert code == 0 and document["plans"][document["best"]]["fits"]


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (("train.0.packing=false",), {"seq_len": 240}),  # the longest row as it is taught
        (
            ("train.0.per_device_train_batch_size=2", "train.0.gradient_accumulation_steps=3"),
            {"global_batch": 6},
        ),
        (("compress.weights=int8",), {"weights": ["int8"], "kv_precisions": ["int8"]}),
        (("compress.weights=[bf16, int4]",), {"weights": ["bf16", "int4"]}),
        (
            ("serve.speculative=lookup", "goal.load.prefix_hit=0.25", "goal.load.accept=0.4"),
            {"prefix_hit": 0.25, "accept": 0.4, "draft_tokens": 4},
        ),
    ],
)
def test_words_of_a_recipe_are_weighed_on_other_devices_too(told, tmp_path, words, asked) -> None:
    _, document = weighed(told, tmp_path, *words)
    assert {name: document["request"][name] for name in asked} == asked


def test_one_full_stage_makes_the_training_full_and_rows_apart_are_padded(told, tmp_path) -> None:
    stages = "{finetuning_type: full, max_length: 512, packing: P}, {finetuning_type: lora, max_length: 512}"
    packed, padded = (
        weighed(told, tmp_path, f"train=[{stages.replace('P', p)}]")[1]["request"] for p in ("true", "false")
    )
    assert packed["finetuning_type"] == padded["finetuning_type"] == "full"
    assert padded["tokens"] > 1.2 * packed["tokens"]


def test_a_teacher_and_interruptible_machines_are_asked_for_by_flags(told) -> None:
    job = ("plan", "--model", "llama3-8b", "--job", "distil", "--tokens", "1e8", "--device", "h100-sxm")
    own, large, spot = (
        told(*job, *more)[1]["plans"][0] for more in ((), ("--teacher-params", "70e9"), ("--spot",))
    )
    assert large["cost_usd"]["value"] > 2 * own["cost_usd"]["value"] > 4 * spot["cost_usd"]["value"]


def test_precisions_are_asked_for_by_flags(told) -> None:
    batch = ("--precision", "fp8", "--global-batch", "48")
    _, document = told(*JOB, *batch)
    settings = {p["device"]: p["settings"] for p in document["plans"]}["h100-sxm"]
    assert (settings["precision"], settings["global_batch"]) == ("fp8", 48)
    serve = (
        "plan",
        "--model",
        "llama3-8b",
        "--job",
        "serve",
        "--device",
        "h100-sxm",
        "--device",
        "a100-80-sxm",
    )
    _, document = told(*serve, "--precision", "fp8, fp4", "--kv-precision", "fp8")
    fits, lacks = document["plans"]
    assert (fits["settings"]["weights"], fits["settings"]["kv_bits"]) == ("fp8", 8)
    assert lacks["why_not"] == "has no units for fp8 or fp4"


# ------------------------------------------------------------------ hardware


def test_a_device_is_shown_with_the_source_of_each_figure(told) -> None:
    _, document = told("hardware", "gaudi 2")
    figures = {f["figure"]: f for f in document["figures"]}
    assert figures["memory"]["value"] == 96 and figures["memory"]["unit"] == "GB"
    assert all(f["source"] and f["confidence"] in ("high", "medium", "low") for f in document["figures"])
    assert figures["list price"]["source"] != figures["memory"]["source"]
    _, (out, _) = told("hardware", "gaudi2", as_json=False)
    assert "[1]" in out and out.rstrip().endswith("--device gaudi2")


def test_every_device_has_sourced_figures() -> None:
    from steelyard.hardware import catalogue, sheet

    for device in catalogue():
        assert all(f["source"] for f in sheet(device)), device.id


# ------------------------------------------------------------------ validate RESULTS.csv

HEAD = [
    "id", "source", "url", "date", "phase", "model", "params_b", "layers", "hidden", "heads",
    "kv_heads", "ffn", "vocab", "precision", "weight_bits", "kv_bits", "device", "devices",
    "devices_per_node", "interconnect", "framework", "dp", "tp", "pp", "cp", "micro_batch",
    "global_batch", "seq_len", "prompt_len", "output_len", "concurrency", "recompute", "zero_stage",
    "metric", "unit", "value", "confidence", "note",
]  # fmt: skip
ROW = {
    "id": "r1", "source": "paper", "date": "2024", "phase": "serve", "model": "qwen2-7b", "params_b": "7.62",
    "layers": "28", "hidden": "3584", "heads": "28", "kv_heads": "4", "ffn": "18944", "vocab": "152064",
    "precision": "fp16", "weight_bits": "16", "kv_bits": "16", "device": "h100-sxm", "devices": "1",
    "framework": "vLLM", "tp": "1", "prompt_len": "128", "output_len": "128", "concurrency": "1",
    "metric": "output_tokens_per_s", "unit": "tokens/s", "value": "120",
}  # fmt: skip


def written(path: Path, *rows: dict[str, str], head: list[str] = HEAD) -> str:
    lines = [",".join(head), *(",".join(row.get(name, "") for name in head) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path.name


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("unit", "furlongs", "'furlongs' is not known"),
        ("layers", "-28", "not a size"),
        ("devices", "many", "not a size"),
        ("prompt_len", "-1", "not a size"),
    ],
)
def test_a_bad_cell_is_told_with_file_line_and_field(told, tmp_path, column, cell, message) -> None:
    name = written(tmp_path / "r.csv", ROW, ROW | {"id": "r2", column: cell})
    code, document = told("validate", name, "--predictions", "out.json")
    error = document["error"]
    assert (code, error["code"]) == (2, "results.bad_cell") and message in error["message"]
    assert error["where"] == {"file": name, "line": 3, "field": column} and error["hint"]
    found = json.loads((tmp_path / "out.json").read_text())["predictions"]
    assert found[0]["value"] and [p["id"] for p in found] == ["r1", "r2"]


@pytest.mark.parametrize("column", ["unit", "device", "layers", "tp"])
def test_a_missing_column_is_told(told, tmp_path, column: str) -> None:
    name = written(tmp_path / "r.csv", ROW, head=[c for c in HEAD if c != column])
    code, document = told("validate", name)
    assert (code, document["error"]["code"]) == (2, "table.column_missing")
    assert document["error"]["where"] == {"file": name, "line": 1, "field": column}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"device": "h10-sxm"}, "h10-sxm"),
        ({"metric": "joy"}, "joy"),
        ({"phase": "dream"}, "dream"),
    ],
)
def test_a_row_that_cannot_be_predicted_has_a_reason(told, tmp_path, change, reason: str) -> None:
    name = written(tmp_path / "r.csv", ROW, ROW | {"id": "r2"} | change)
    code, document = told("validate", name, "--predictions", "out.json")
    assert code == 0 and document["predicted"] == 1 and document["rows"] == 2
    first, second = json.loads((tmp_path / "out.json").read_text())["predictions"]
    assert first["value"] and not first["reason"]
    assert second["value"] is None and reason in second["reason"]


def test_an_unknown_device_names_the_nearest(told, tmp_path) -> None:
    name = written(tmp_path / "r.csv", ROW | {"device": "h10-sxm"})
    told("validate", name, "--predictions", "out.json")
    (found,) = json.loads((tmp_path / "out.json").read_text())["predictions"]
    assert "h100-sxm" in found["reason"]


def test_scores_by_phase_and_family_and_the_worst_rows(told, tmp_path) -> None:
    name = written(tmp_path / "r.csv", ROW, ROW | {"id": "r2", "value": "12000"})
    _, document = told("validate", name)
    for group in ("serve", "serve/nvidia"):
        scores = document["groups"][group]
        assert {"mape", "median", "within_20", "bias", "predicted", "coverage"} <= set(scores)
    worst = document["worst"][0]
    assert (worst["id"], worst["model"], worst["device"], worst["measured"]) == (
        "r2",
        "qwen2-7b",
        "h100-sxm",
        12000,
    )
    _, (out, _) = told("validate", name, as_json=False)
    assert "2 of 2 rows predicted" in out and "farthest off:" in out


def test_rows_of_ones_own_stack_calibrate(told, tmp_path) -> None:
    asked = written(tmp_path / "asked.csv", ROW | {"value": ""})
    rows = [ROW | {"id": f"m{n}", "concurrency": n, "value": str(float(n) * 60)} for n in ("1", "4", "16")]
    mine = written(tmp_path / "mine.csv", *rows)
    values = []
    for more in ((), ("--calibrate", mine)):
        assert told("validate", asked, "--predictions", "out.json", *more)[0] == 0
        values.append(json.loads((tmp_path / "out.json").read_text())["predictions"][0]["value"])
    assert abs(values[1] / 60 - 1) < abs(values[0] / 60 - 1)


def test_a_header_alone_has_no_rows(told, tmp_path) -> None:
    code, document = told("validate", written(tmp_path / "r.csv"))
    assert code == 0 and document["rows"] == 0


def test_what_others_compute_is_said_beside_the_times_of_a_free_machine() -> None:
    from steelyard.cli.telling.plan_lines import here_lines

    steps = {"train": {"wall_s": {"value": 60.0, "low": 50.0, "high": 70.0}}}
    document = {"machine": "a CPU", "steps": steps, "cores": {"calibration": 1.0, "now": 0.5}}
    text = "\n".join(here_lines(document))
    assert "50 % of the cores" in text and "2 min" in text and "measured beside" not in text
    text = "\n".join(here_lines(document | {"cores": {"calibration": 0.61, "now": 1.0}}))
    assert "61 % of the cores" in text and "free machine" not in text
    assert "cores" not in "\n".join(here_lines(document | {"cores": {"calibration": 0.97, "now": 0.95}}))


def test_a_recipe_is_weighed_at_prices_of_ones_own(told, tmp_path) -> None:
    (tmp_path / "steelyard.yaml").write_text(RECIPE.replace(", providers: [aws]", ""))
    words = ("plan", "--device", "h100-sxm", "--device", "gaudi2", "--price", "gaudi2=0.9/reserved")
    code, document = told(*words, "--price-class", "reserved", "--set", "trust=open")
    best = document["plans"][document["best"]]
    assert (code, best["device"], best["price"]["class"]) == (0, "gaudi2", "reserved")
    assert document["request"]["prices"]["gaudi2"] == {"usd_per_h": 0.9, "price_class": "reserved"}
    assert not next(p for p in document["plans"] if p["device"] == "h100-sxm")["compared"]


def test_this_machine_is_looked_at_once(told, monkeypatch) -> None:
    from steelyard.run.planning import weighing

    calibrated(monkeypatch)
    looks: list[str] = []
    for name in ("probe", "recall"):
        real = getattr(weighing, name)

        def noted(*args: Any, name: str = name, real: Any = real) -> Any:
            looks.append(name)
            return real(*args)

        monkeypatch.setattr(weighing, name, noted)
    assert told(*JOB, "--device", "this-machine")[0] == 0
    assert sorted(looks) == ["probe", "recall"]
