"""What starts the ranks of a training: its script, run on each host beside programs that only say how."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steelyard.launch import Earlier, Service, Target, Training, schema_faults, service_target
from steelyard.launch.habana import habana
from steelyard.launch.megatron import megatron
from steelyard.launch.titan import titan
from steelyard.launch.trl import trl

SIZES = {"layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 8, "head_dim": 128, "ffn": 14336}
SIZES |= {"vocab": 128256, "experts": 0, "experts_per_token": 0, "tied": 0}
SETTINGS: dict[str, Any] = {
    "micro_batch": 2, "global_batch": 64, "dp": 16, "tp": 1, "pp": 1, "cp": 1, "ep": 1, "zero": 2,
    "precision": "bf16", "steps": 100, "seq_len": 2048, "learning_rate": 2e-5, "finetuning_type": "full",
    "job": "sft", "recompute": "none", "checkpoint_every_s": 60,
}  # fmt: skip
SAYS = '#!/bin/sh\necho "$0 $OMP_NUM_THREADS" "$@" >> "$SAID"\n'
CORES = '#!/bin/sh\nprintf "# of lscpu\\n0,0\\n0,0\\n1,0\\n0,1\\n1,1\\n"\n'  # 4 cores, one of them twice


def training(platform: str = "cuda", hosts: int = 2, **words: Any) -> Training:
    return Training(
        model="llama3-8b", family="llama", sizes=SIZES, platform=platform, device="device", hosts=hosts,
        per_host=2 if platform == "cpu" else 8, step_s=1.0, settings=SETTINGS | words,
    )  # fmt: skip


def started(target: Target, folder: Path, **variables: str) -> str:
    """What run.sh starts, in one line."""
    folder.mkdir(exist_ok=True)
    for name, text in target.files.items():
        (folder / name).write_text(text)
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    for name in ("accelerate", "torchrun", "python3", "lscpu"):
        (tools / name).write_text(CORES if name == "lscpu" else SAYS)
        (tools / name).chmod(0o755)
    said = folder / "said"
    said.write_text("")
    own = {"PATH": f"{tools}:{os.environ['PATH']}", "SAID": str(said), "MEGATRON": str(folder)}
    done = subprocess.run(
        ["sh", "run.sh"], cwd=folder, env=own | {"OPTIMUM_HABANA": "/habana"} | variables,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return said.read_text().strip().replace(f"{tools}/", "")


@pytest.mark.parametrize(
    ("maker", "platform"),
    [
        (trl, "cuda"),
        (trl, "cpu"),
        (titan, "cuda"),
        (megatron, "cuda"),
        (megatron, "gaudi"),
        (habana, "gaudi"),
    ],
)
def test_each_host_starts_its_own_ranks_of_one_training(tmp_path: Path, maker: Any, platform: str) -> None:
    target = maker(training(platform))
    said = [
        started(target, tmp_path / "x", NODE_RANK=rank, MASTER_ADDR="10.0.0.1").split() for rank in ("0", "1")
    ]
    differ = [pair for pair in zip(*said, strict=True) if pair[0] != pair[1]]
    assert differ == [("0", "1")] and "10.0.0.1" in said[0] and "--hostfile" not in said[0]
    assert (said[0][0] == "torchrun") == (maker is not trl or platform == "cpu")
    for missing in ("NODE_RANK", "MASTER_ADDR"):
        with pytest.raises(AssertionError, match=missing):
            started(target, tmp_path / "x", **{"NODE_RANK": "0", "MASTER_ADDR": "x", missing: ""})


@pytest.mark.parametrize("zero", [1, 2])
def test_accelerate_joins_the_hosts_of_deepspeed_into_one_training(tmp_path: Path, zero: int) -> None:
    """By what its own launcher would start: a command of its own for all hosts, or torch's on each."""
    launch = pytest.importorskip(
        "accelerate.commands.launch", reason="accelerate is not installed: not asked"
    )
    from accelerate.utils.launch import prepare_deepspeed_cmd_env

    path = tmp_path / "accelerate.yaml"
    path.write_text(trl(training(zero=zero)).files["accelerate.yaml"])
    words = ["--config_file", str(path), "--machine_rank", "1", "--main_process_ip", "10.0.0.1", "-m", "x"]
    args, _, _ = launch._validate_launch_command(launch.launch_command_parser().parse_args(words))
    args.deepspeed_fields_from_accelerate_config = ""
    command, _ = prepare_deepspeed_cmd_env(args)
    assert args.use_deepspeed and command is None
    assert (args.nnodes, args.nproc_per_node, args.node_rank) == ("2", "8", 1)
    assert args.rdzv_endpoint == "10.0.0.1:29500"
    alone = trl(training(hosts=1, zero=zero)).given["accelerate"]["deepspeed_config"]
    assert "deepspeed_multinode_launcher" not in alone


def test_a_cpu_has_a_rank_a_socket_with_its_share_of_the_cores(tmp_path: Path) -> None:
    target = trl(training("cpu", hosts=1))
    name, threads, *words = started(target, tmp_path / "x").split()
    assert (name, threads) == ("torchrun", "2") and words[words.index("--nproc-per-node") + 1] == "2"
    assert started(target, tmp_path / "x", OMP_NUM_THREADS="7").split()[1] == "7"
    assert "use_cpu: true" in target.files["trl.yaml"] and "accelerate.yaml" not in target.files
    lost = target.lost(SETTINGS | {"zero": 3, "offload": True})
    assert {"zero", "offload"} <= set(lost) and "CPUs" in lost["zero"][1]


def test_one_host_of_gaudi_is_spawned_as_before() -> None:
    one = habana(training("gaudi", hosts=1)).files["run.sh"]
    assert "gaudi_spawn.py \\\n  --world_size 8 \\\n  --use_deepspeed" in one and "NODE_RANK" not in one
    single = replace(training("gaudi", hosts=1), per_host=1)
    assert "gaudi_spawn" not in habana(single).files["run.sh"]


HALF = (
    "checkpoint-200/model.safetensors",
    "checkpoint-30/trainer_state.json",
    "checkpoint-9/trainer_state.json",
)


@pytest.mark.parametrize(("maker", "platform"), [(trl, "cuda"), (trl, "cpu"), (habana, "gaudi")])
def test_a_run_goes_on_from_its_newest_whole_checkpoint(tmp_path: Path, maker: Any, platform: str) -> None:
    """The 200th was begun alone: trainer_state.json is what is written last."""
    target = maker(training(platform, hosts=1))
    assert "--resume_from_checkpoint" not in started(target, tmp_path / "x y")
    for name in HALF:
        (tmp_path / "x y" / "checkpoints" / name).parent.mkdir(parents=True)
        (tmp_path / "x y" / "checkpoints" / name).write_text("")
    said = started(target, tmp_path / "x y")
    assert said.endswith(" --resume_from_checkpoint checkpoints/checkpoint-30")


@pytest.mark.parametrize("job", ["pretrain", "continue", "sft", "prefer", "distil"])
@pytest.mark.parametrize("platform", ["cuda", "gaudi"])
def test_megatron_goes_on_from_its_own_and_begins_from_the_base(
    tmp_path: Path, platform: str, job: str
) -> None:
    """load_checkpoint takes the pretrained one where the other is not there, and its weights alone."""
    target = megatron(training(platform, hosts=1, job=job))
    said = started(target, tmp_path / "x").split()
    assert said[said.index("--load") + 1] == said[said.index("--save") + 1] == f"{tmp_path}/x/checkpoints"
    base = said[said.index("--pretrained-checkpoint") + 1] if "--pretrained-checkpoint" in said else None
    assert base == (None if job == "pretrain" else f"{tmp_path}/x/checkpoint")
    assert "--finetune" not in said  # it would begin at step 0 each time


LEFT = {  # by a stage that trains all weights, or adapters -> what the next one is started with
    trl: ("model_name_or_path: ../train-1/checkpoints\n", "model_name_or_path: ../train-1/tuned\n"),
    habana: ("--model_name_or_path ../train-1/checkpoints", "--model_name_or_path ../train-1/tuned"),
    megatron: ('"$here/../train-1/checkpoints"', '"$here/../train-1/checkpoints"'),  # it has no adapters
    titan: ('"$PWD/../train-1/checkpoints/step-70"', '"$PWD/../train-1/tuned"'),
}


@pytest.mark.parametrize("maker", LEFT)
@pytest.mark.parametrize("lora", [False, True])
def test_a_later_stage_starts_from_what_the_one_before_it_left(
    tmp_path: Path, maker: Any, lora: bool
) -> None:
    platform = "gaudi" if maker is habana else "cuda"
    first = maker(training(platform, hosts=1))
    target = maker(replace(training(platform, hosts=1), after=Earlier(place="train-1", steps=70, lora=lora)))
    assert schema_faults(target) == []
    assert LEFT[maker][lora] in target.files.get("trl.yaml", target.files["run.sh"])
    (need,) = [need for need in target.needs if need.startswith("../train-1/")]
    assert need.partition(":")[0] in LEFT[maker][lora] and ("adapter" in need) == (
        lora and maker is not megatron
    )
    assert "llama3-8b" in " ".join(first.needs) or maker is megatron  # no id at the hub: who puts it there?
    assert not [need for need in maker(replace(training(), model="org/x")).needs if need.startswith("org/x:")]


FP16 = [  # a GradScaler refuses gradients of weights in 16 bits; DeepSpeed has a copy in 32, adapters are so
    ({"zero": 0}, "float32"), ({"zero": 3}, "float32"), ({"zero": 2, "cp": 2}, "float32"),
    ({"zero": 2}, "float16"), ({"zero": 0, "offload": True}, "float16"),
    ({"zero": 0, "finetuning_type": "lora"}, "float16"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "dtype"), FP16)
def test_weights_that_fp16_trains_are_in_32_bits(words: dict[str, Any], dtype: str) -> None:
    target = trl(training(precision="fp16", **words))
    assert f"dtype: {dtype}\n" in target.files["trl.yaml"] and "fp16: true\n" in target.files["trl.yaml"]
    by_deepspeed = "DEEPSPEED" in target.files["accelerate.yaml"]
    assert ("pip install deepspeed" in target.needs) == by_deepspeed


@pytest.mark.parametrize("words", [{"zero": 3}, {"zero": 0, "cp": 2}])
def test_weights_in_shards_are_merged_before_another_reads_them(words: dict[str, Any]) -> None:
    """With SHARDED_STATE_DICT transformers' Trainer.save_model writes nothing; adapters are saved whole."""
    whole, adapters = training(**words), training(**words, finetuning_type="lora")
    for one, kind in ((whole, "SHARDED"), (adapters, "FULL")):
        assert f"fsdp_state_dict_type: {kind}_STATE_DICT\n" in trl(one).files["accelerate.yaml"]
    _, need = trl(whole).tuned("train")
    assert "accelerate merge-weights" in need and "merge-weights" not in trl(adapters).tuned("train")[1]
    later = trl(replace(whole, after=Earlier(place="train-1", steps=70, lora=False)))
    assert "model_name_or_path: ../train-1/tuned\n" in later.files["trl.yaml"]
    assert any(need.startswith("../train-1/tuned: ") and "merge-weights" in need for need in later.needs)
    gathered = json.loads(habana(training("gaudi", zero=3)).files["ds_config.json"])["zero_optimization"]
    assert gathered["stage3_gather_16bit_weights_on_model_save"] is True


def test_what_titan_writes_is_where_the_next_one_looks(tmp_path: Path) -> None:
    said = started(titan(training(hosts=1)), tmp_path / "x").split()
    assert said[said.index("--dump_folder") + 1] == "." and "--checkpoint.initial_load_in_hf" in said
    assert said[said.index("--checkpoint.folder") + 1] == "checkpoints"
    later = titan(replace(training(hosts=1), after=Earlier(place="train-1", steps=70, lora=False)))
    said = started(later, tmp_path / "x").split()
    path = said[said.index("--checkpoint.initial_load_path") + 1]
    assert path == f"{tmp_path}/x/../train-1/checkpoints/step-70"  # torchtitan takes an absolute one alone
    assert "--checkpoint.initial_load_in_hf" not in said


SETUP = {"tp": 1, "pp": 1, "ep": 1, "dp": 1, "replicas": 1, "prefill_replicas": 0, "weights": "int8"}
SETUP |= {"kv_bits": 8, "batch": 16, "prompt_tokens": 128, "output_tokens": 64, "percentile": 50.0}


@pytest.mark.parametrize("engine", ["ovms", "vllm", "sglang"])
def test_a_service_of_what_was_trained_says_what_it_waits_for(engine: str) -> None:
    service = Service(
        model="llama3-8b", engine=engine, platform="cpu" if engine == "ovms" else "cuda", device="device",
        hosts=1, here=1, settings=SETUP,
    )  # fmt: skip
    base = service_target(service)
    assert any(need.startswith("llama3-8b: ") for need in base.needs)
    weights, need = trl(training(finetuning_type="lora")).tuned("train")
    assert weights == "../train/tuned" and need.startswith("../train/tuned: ../train/checkpoints")
    target = service_target(replace(service, weights=weights, needs=(need,)))
    assert need in target.needs and schema_faults(target) == []
    assert not [need for need in target.needs if need.startswith("llama3-8b: ")]
    script = target.files["serve.sh"]
    assert ("--source_model tuned" if engine == "ovms" else weights) in script and "llama3-8b" in script
    if engine == "ovms":
        assert f"--model {weights} --weight-format int8 models/tuned" in " ".join(target.needs)
