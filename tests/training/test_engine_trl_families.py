"""Families that steelyard has no network of, tiny and random: what is adapted, packed or apart, and merged.

bench/families.py trains all of them. Needs the environment of the engine trl.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import steelyard.training.engines.trl as trl
from steelyard.model import trl_python
from steelyard.training import CAPABILITIES

sys.path.append(str(Path(__file__).parents[2] / "bench"))
import families as bench

ABSENT = CAPABILITIES["trl"]().unusable
pytestmark = [
    pytest.mark.trl,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(ABSENT), reason=f"the engine trl: {ABSENT}"),
]
# In the engine's environment: what it adapts of each family, and whether it packs.
GUARDS = """
import json, sys
import torch
sys.path.append(sys.argv[1])
from child.model import covered_share, with_adapter
from child.rows import packs
from transformers import AutoConfig, AutoModelForCausalLM
for family, words in json.loads(sys.argv[2]).items():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **words)).float()
    packing, why = packs(model)
    in_bf16, _ = packs(model.bfloat16())
    model = model.float()
    job = {"init": None, "lora_rank": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": None}
    job |= {"modules_to_save": None, "stage": "sft"}
    model = with_adapter(model, job)
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    found = {"trained": trained, "share": covered_share(model), "packing": [packing, in_bf16], "why": why}
    print(json.dumps({"family": family, **found}))
"""
EXPERTS = {"qwen3_moe": 0.5, "mixtral": 0.5, "deepseek_v3": 0.3}  # of deepseek PEFT leaves the dense MLPs
APART = ("gpt_oss", "lfm2", "falcon_h1")
ROUTERS = {"gate", "router", "shared_expert_gate"}


@pytest.fixture(scope="module")
def guarded():
    """What the engine makes of each family: {family: ...}."""
    wanted = {name: bench.SIZES | bench.FAMILIES[name] for name in (*EXPERTS, *APART)}
    command = [str(trl_python()), "-c", GUARDS, str(Path(trl.__file__).parent), json.dumps(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {row["family"]: row for row in rows}


@pytest.mark.parametrize("family", EXPERTS)
def test_experts_are_adapted_and_routers_are_not(guarded, family):
    parts = [set(name.split(".lora_")[0].split(".")) for name in guarded[family]["trained"]]
    assert any("experts" in part for part in parts) and any("self_attn" in part for part in parts)
    assert not any(ROUTERS & part for part in parts)
    assert EXPERTS[family] < guarded[family]["share"] < 1.0
    assert guarded[family]["packing"] == [True, True]


@pytest.mark.parametrize("family", APART)
def test_a_family_whose_packed_rows_see_each_other_is_not_packed(guarded, family):
    """A convolution leaks ten thousand times less than a mask does; rounding in bf16 moves experts more."""
    assert guarded[family]["packing"] == [False, False] and guarded[family]["why"]
    assert guarded[family]["trained"]


def test_it_is_served_merged_as_plain_transformers_and_peft_have_it(tmp_path):
    """Latent attention and experts: the artefact against base and adapter, and a token at a time."""
    base = bench.make_base("deepseek_v3", tmp_path / "base")
    figures, tuned = bench.trained(base, tmp_path)
    (found,) = bench.checked((base, tuned))
    assert found["merged_diff"] <= 1e-5 and found["cached_diff"] <= 1e-4 and found["moved"] > 1e-3
    assert figures["packed"] == 1.0 and found["packed_diff"] <= 1e-5
    config = json.loads((tuned / "config.json").read_text())
    assert (config["model_type"], config["dtype"]) == ("deepseek_v3", "bfloat16")
