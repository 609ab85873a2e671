"""The files of a plan: no setting dropped without a word, and nothing that a documented schema refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.launch import Service, Training, schema_faults, service_target, source_of, training_target
from steelyard.launch.export import TRAINERS, WRITERS
from steelyard.launch.target import NEUTRAL, PLANNERS_OWN

LLAMA = {"layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 8, "head_dim": 128, "ffn": 14336}
LLAMA |= {"vocab": 128256, "experts": 0, "experts_per_token": 0, "tied": 0}
ODD = LLAMA | {"layers": 31, "experts": 8, "experts_per_token": 2}

PLANS = st.fixed_dictionaries(
    {
        "tp": st.sampled_from([1, 2, 8]), "pp": st.sampled_from([1, 4]),
        "virtual_stages": st.sampled_from([1, 2]),
        "cp": st.sampled_from([1, 2]), "ep": st.sampled_from([1, 4]), "dp": st.sampled_from([1, 2, 16]),
        "sequence_parallel": st.booleans(), "micro_batch": st.sampled_from([1, 4]),
        "global_batch": st.sampled_from([64, 256]), "zero": st.integers(0, 3), "offload": st.booleans(),
        "recompute": st.sampled_from(["none", "selective", "full"]),
        "precision": st.sampled_from(["bf16", "fp16", "f32", "tf32", "fp8", "fp4"]),
        "finetuning_type": st.sampled_from(["full", "lora", "qlora"]),
        "seq_len": st.sampled_from([512, 8192]),
        "steps": st.integers(1, 10**6), "checkpoint_every_s": st.integers(60, 10**5),
        "learning_rate": st.floats(1e-6, 1e-2), "warmup_ratio": st.sampled_from([0.0, 0.03]),
        "weight_decay": st.sampled_from([0.0, 0.1]), "lora_rank": st.sampled_from([8, 64]),
        "lora_alpha": st.sampled_from([16, 128]), "grid": st.just("fine"),
        "job": st.sampled_from(["pretrain", "continue", "sft", "prefer", "distil"]),
        "evaluated": st.sampled_from([0.0, 0.01]), "something_new": st.sampled_from([1, 2]),
    }
)  # fmt: skip
TRAININGS = st.builds(
    lambda settings, platform, sizes, hosts: Training(
        model="llama3-8b", family="llama", sizes=sizes, platform=platform, device="device", hosts=hosts,
        per_host=8, step_s=1.5, settings=settings,
    ),
    PLANS, st.sampled_from(sorted(TRAINERS)), st.sampled_from([LLAMA, ODD]), st.sampled_from([1, 4]),
)  # fmt: skip


@settings(max_examples=150)
@given(TRAININGS)
def test_every_setting_stands_in_a_file_or_is_listed(training: Training) -> None:
    for maker in TRAINERS[training.platform]:
        if (target := maker(training)) is None:
            continue
        lost = target.lost(training.settings)
        for name, value in training.settings.items():
            if name in PLANNERS_OWN or value == NEUTRAL.get(name):
                continue
            assert (name in target.stated) != (name in lost), (target.name, name)
        assert all(why for _, why in lost.values())
        assert "something_new" in lost


@settings(max_examples=150)
@given(TRAININGS)
def test_no_file_says_what_its_schema_does_not_know(training: Training) -> None:
    for maker in TRAINERS[training.platform]:
        if target := maker(training):
            assert schema_faults(target) == []


@settings(max_examples=50)
@given(TRAININGS, st.sampled_from([*WRITERS, "maxtext"]))
def test_the_plans_own_stack_is_exported_whatever_it_loses(training: Training, stack: str) -> None:
    training = replace(training, settings=training.settings | {"stack": stack})
    makers = [m for m in WRITERS.get(stack, ()) if m in TRAINERS[training.platform] and m(training)]
    chosen = training_target(training)
    assert chosen
    if makers:
        own = makers[0](training)
        assert chosen.files == own.files and "stack" not in chosen.lost(training.settings)
    else:
        losses = [len(t.lost(training.settings)) for m in TRAINERS[training.platform] if (t := m(training))]
        assert len(chosen.lost(training.settings)) == min(losses)
        assert chosen.lost(training.settings)["stack"][0] == stack


@settings(max_examples=40)
@given(TRAININGS)
def test_each_script_is_a_script(training: Training) -> None:
    target = training_target(training)
    assert target is not None
    done = subprocess.run(
        ["sh", "-n"], input=target.files["run.sh"], text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    if "plan.py" in target.files:
        compile(target.files["plan.py"], "plan.py", "exec")
    if "ds_config.json" in target.files:
        json.loads(target.files["ds_config.json"])


def test_yaml_is_read_as_what_was_written() -> None:
    from ruamel.yaml import YAML

    base = {"micro_batch": 2, "global_batch": 64, "dp": 8, "zero": 3, "precision": "bf16", "steps": 100}
    base |= {"seq_len": 2048, "learning_rate": 2e-5, "finetuning_type": "qlora", "lora_rank": 8}
    base |= {"lora_alpha": 16, "job": "sft", "recompute": "full", "checkpoint_every_s": 60}
    training = Training(
        model="a: b #c", family="llama", sizes=ODD, platform="cuda", device="h100-sxm", hosts=1, per_host=8,
        step_s=1.0, settings=base,
    )  # fmt: skip
    target = training_target(training)
    assert target and target.name == "trl"
    for file, parser in (("trl.yaml", "trl sft"), ("accelerate.yaml", "accelerate")):
        read = YAML(typ="safe").load(target.files[file])
        assert read == target.given[parser]
    assert "learning_rate: 2.0e-05\n" in target.files["trl.yaml"]  # YAML 1.1 takes 2e-05 for a word
    one_gpu = training_target(replace(training, settings=base | {"precision": "f32", "zero": 0}))
    assert one_gpu and "mixed_precision: 'no'\n" in one_gpu.files["accelerate.yaml"]  # no is false there


SETUP = {"tp": 1, "pp": 1, "ep": 1, "dp": 1, "replicas": 2, "prefill_replicas": 0, "weights": "int8"}
SETUP |= {"kv_bits": 8, "batch": 16, "prompt_tokens": 128, "output_tokens": 64, "percentile": 50.0}


def test_a_service_on_sockets_is_a_server_each() -> None:
    service = Service(
        model="llama3-8b", engine="ovms", platform="cpu", device="xeon-8592plus", hosts=1, here=2,
        settings=SETUP, cache_bytes=40 * 2**30,
    )  # fmt: skip
    target = service_target(service)
    assert schema_faults(target) == [] and target.lost(SETUP) == {}
    units = [name for name in target.files if name.endswith(".service")]
    assert len(units) == 2 and "PORT=8001" in target.files[units[1]] and "NODES=1" in target.files[units[1]]
    assert "--cache_size 40" in target.files["serve.sh"] and "127.0.0.1" in target.files["serve.sh"]
    apart = SETUP | {"prefill_replicas": 3}
    assert target.lost(apart)["prefill_replicas"][0] == 3


@pytest.mark.parametrize("engine", ["ovms", "vllm"])
def test_a_unit_takes_a_folder_as_it_is(tmp_path: Path, engine: str) -> None:
    folder = tmp_path / "my plans $5 100%" / "serve"
    service = Service(
        model="a model\nExecStart=/bin/false", engine=engine, platform="cpu" if engine == "ovms" else "cuda",
        device="device", hosts=1, here=1, settings=SETUP, folder=str(folder),
    )  # fmt: skip
    files = service_target(service).files
    (unit,) = [text for name, text in files.items() if name.endswith(".service")]
    named = str(folder).replace("%", "%%")
    assert f"WorkingDirectory={named}\n" in unit
    assert f'ExecStart=/bin/sh "{named.replace("$", "$$")}/serve.sh"\n' in unit
    assert "\nExecStart=/bin/false" not in unit
    if shutil.which("systemd-analyze"):
        folder.mkdir(parents=True)
        (folder / "serve.sh").write_text("exit\n")
        path = tmp_path / "steelyard-plan.service"
        path.write_text(unit)
        done = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True)
        assert "steelyard-plan" not in done.stderr, done.stderr


@pytest.mark.parametrize("parser", ["trl sft", "accelerate", "torchtitan", "megatron-lm", "ovms", "vllm"])
def test_the_schema_says_where_it_was_read(parser: str) -> None:
    assert any(char.isdigit() for char in source_of(parser))
