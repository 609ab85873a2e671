"""Every family, tiny and random: trained by the engine trl, merged, loaded back; the whole path for some.

    python bench/families.py [FAMILY ...] [--whole gemma3_text phi3 qwen3_moe deepseek_v3] [--vllm PYTHON]

For each family: a base of some 0.1 M weights, four steps of LoRA in float32 on packed rows. Then, by plain
transformers and peft in the engine's environment:
packed   how far packed rows' logits are from the same rows alone, and whether the engine packed them
merged   how far the served model's logits are from base and adapter, merged and rounded as it was
cached   how far a token a time with a cache is from all at once, as the engine `transformers` serves it
With --vllm: log-probabilities of 40 tokens by vLLM on this CPU in float32, beside those of transformers.
With --whole: `up` on a recipe of its own, to a gate that passed. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIZES = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 320, "max_position_embeddings": 512,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
HEAD = {"head_dim": 16}
WINDOW = {"sliding_window": 16}
MIXED = {"layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
SHARED = {"shared_expert_intermediate_size": 32}
LATENT = {
    "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "moe_intermediate_size": 32, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 16, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
}  # fmt: skip
LINEAR = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16,
    "linear_value_head_dim": 16, "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
MAMBA = {"mamba_d_head": 16, "mamba_d_state": 16}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {}, "qwen2": {}, "qwen3": HEAD, "mistral": WINDOW, "gemma2": HEAD | WINDOW,
    "gemma3_text": HEAD | WINDOW | MIXED, "phi3": {}, "phi": {}, "olmo2": {}, "granite": {}, "glm4": HEAD,
    "cohere2": WINDOW | MIXED, "smollm3": {}, "ministral": HEAD | WINDOW, "qwen3_moe": HEAD | EXPERTS,
    "qwen2_moe": EXPERTS | SHARED, "mixtral": LOCAL, "gpt_oss": HEAD | LOCAL | MIXED,
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2}, "deepseek_v2": LATENT | {"q_lora_rank": None},
    "deepseek_v3": LATENT | {"q_lora_rank": 16}, "qwen3_next": HEAD | LINEAR | EXPERTS | SHARED,
    "falcon_h1": HEAD | MAMBA | {"mamba_d_ssm": 64, "mamba_n_heads": 4},
    "mamba2": {"num_heads": 8, "head_dim": 16, "expand": 2, "n_groups": 1, "state_size": 16},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "bamba": MAMBA | {"mamba_n_heads": 8, "mamba_expand": 2, "attn_layer_indices": [1]},
}  # fmt: skip
WHOLE = ("gemma3_text", "phi3", "qwen3_moe", "deepseek_v3")
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SETTINGS = {
    "stage": "sft", "finetuning_type": "lora", "lora_rank": 4, "lora_alpha": 8, "learning_rate": 1e-2,
    "num_train_epochs": 1, "max_steps": 4, "max_length": 128, "packing": True, "micro_batch": 1,
    "grad_accum": 1, "warmup_ratio": 0.0, "weight_decay": 0.0, "seed": 0, "threads": 1, "dtype": "f32",
    "mix": {}, "engine": "trl",
}  # fmt: skip
# Runs in the engine's environment: bases of random weights.
BASE = """
import json, sys, torch
from transformers import AutoConfig, AutoModelForCausalLM
for family, words, out, dtype in json.loads(sys.argv[1]):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **words))
    model.to(getattr(torch, dtype)).save_pretrained(out)
"""
# Plain transformers and peft on what the engine has left: a line for each [base, tuned].
CHECK = """
import inspect, json, sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
torch.set_num_threads(1)  # as the engine merged
def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
def logits(model, ids, **more):
    return model(input_ids=ids, use_cache=False, **more).logits[0]
def far(one, other):
    return float((one - other).abs().max())
def packed(model, ids, lengths):
    alone = torch.cat([logits(model, x[None]) for x in ids[0].split(lengths)])
    places = torch.cat([torch.arange(n) for n in lengths])[None]
    try:
        return far(logits(model, ids, position_ids=places), alone)
    except Exception as error:
        return f"refused: {type(error).__name__}"
def stepped(model, ids, start):
    words = inspect.signature(model.forward).parameters
    names = [n for n in ("cache", "past_key_values", "cache_params") if n in words]
    out, rows = model(input_ids=ids[:, :start], use_cache=True), []
    for i in range(start, ids.shape[1]):
        name = next(n for n in names if out.get(n) is not None)
        out = model(input_ids=ids[:, i:i + 1], use_cache=True, **{name: out[name]})
        rows.append(out.logits[0, -1])
    return torch.stack(rows)
def check(base, tuned, vocab):
    lengths = [40, 25, 31]
    ids = torch.randint(4, vocab, (1, sum(lengths)), generator=torch.Generator().manual_seed(1))
    model, served, x = load(base), load(tuned), ids[:, :40]
    found = {"packed_diff": packed(model, ids, lengths), "moved": far(logits(model, x), logits(served, x))}
    merged = PeftModel.from_pretrained(model, tuned + "/adapter").merge_and_unload()
    for weight in merged.parameters():  # weights alone: rotary frequencies are no part of a checkpoint
        weight.data = weight.data.bfloat16().float()
    merged.eval()
    found["merged_diff"] = far(logits(merged, x), logits(served, x))
    return found | {"cached_diff": far(stepped(served, x, 20), logits(served, x)[20:])}
with torch.no_grad():
    for base, tuned in json.loads(sys.argv[1]):
        try:
            print(json.dumps(check(base, tuned, int(sys.argv[2]))))
        except Exception as error:
            print(json.dumps({"check": f"{type(error).__name__}: {error}"[:300]}))
"""
# Runs in vLLM's environment.
VLLM = """
import json, sys
from vllm import LLM, SamplingParams
folder, ids = sys.argv[1], json.loads(sys.argv[2])
llm = LLM(folder, dtype="float32", enforce_eager=True, max_model_len=128, max_num_seqs=1, seed=0)
more = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=1)
told = llm.generate([{"prompt_token_ids": ids}], more)[0].prompt_logprobs[1:]
print(json.dumps([place[token].logprob for token, place in zip(ids[1:], told)]))
"""


def make_base(family: str, folder: Path, dtype: str = "float32", **more: Any) -> Path:
    """A random model of the family with a byte tokenizer and a template."""
    make_bases({family: folder}, dtype, **more)
    return folder


def make_bases(folders: dict[str, Path], dtype: str = "float32", **more: Any) -> None:
    wanted = [[name, SIZES | FAMILIES[name] | more, str(folder), dtype] for name, folder in folders.items()]
    by_engine(BASE, json.dumps(wanted))
    for folder in folders.values():
        make_tokenizer(folder)


def by_engine(program: str, *words: str) -> list[str]:
    """Lines of a program in the engine's environment."""
    from steelyard.model import trl_python

    command = [str(trl_python()), "-c", program, *words]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-1000:])
    return done.stdout.splitlines()


def make_tokenizer(folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({c: i for i, c in enumerate([*special, *alphabet])}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(name, special=True) for name in special])
    inner.save(str(folder / "tokenizer.json"))
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(TEMPLATE)


def rows(count: int, seed: int) -> str:
    """`word` -> `ok`, as lines of JSON."""
    draw, lines = random.Random(seed), []
    for number in range(count):
        word = "".join(draw.choice("abcdefgh") for _ in range(6))
        chat = [{"role": "user", "content": word}, {"role": "assistant", "content": "ok"}]
        lines.append(json.dumps({"id": str(number), "ability": "echo", "messages": chat}))
    return "\n".join(lines) + "\n"


def trained(base: Path, root: Path, **settings: Any) -> tuple[dict[str, float], Path]:
    """Figures of four steps, and what came of them."""
    from steelyard.artefact import Inputs, Store, Watch, adopt
    from steelyard.training import train

    (root / "data").mkdir(parents=True)
    (root / "data" / "train.jsonl").write_text(rows(24, 0))
    inputs = Inputs({"base": adopt(base), "dataset": adopt(root / "data", "dataset")})
    resolved = SETTINGS | settings
    draft = Store(root / "store").draft("checkpoint", "0" * 64, "train", resolved, inputs.artefacts)
    return train(inputs, resolved, draft, Watch()), draft.folder


def checked(*pairs: tuple[Path, Path]) -> list[dict[str, Any]]:
    """What plain transformers and peft say of each base and what was tuned of it."""
    wanted = json.dumps([[str(base), str(tuned)] for base, tuned in pairs])
    return [
        json.loads(line) for line in by_engine(CHECK, wanted, str(SIZES["vocab_size"])) if line[:1] == "{"
    ]


def in_vllm(python: str, tuned: Path) -> dict[str, Any]:
    """How far vLLM's log-probabilities are from transformers', both in float32; or why it does not run it."""
    from steelyard.model import TransformersNetwork

    ids = [5 + (37 * i) % 300 for i in range(40)]
    network = TransformersNetwork(tuned)
    ours = network.score(ids, 0)["logprobs"]
    network.close()
    command = [python, "-c", VLLM, str(tuned), json.dumps(ids)]
    quiet = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | quiet)
    if done.returncode:
        return {"vllm": (done.stderr.strip().splitlines() or ["no word"])[-1][:300]}
    told = (line for line in done.stdout.splitlines() if line.startswith("[-"))  # vLLM prints there too
    theirs = json.loads(next(told, "[]"))
    return {"vllm_diff": max(abs(a - b) for a, b in zip(ours, theirs, strict=True))}


def one(family: str, base: Path, root: Path) -> tuple[dict[str, Any], Path | None]:
    began = time.monotonic()
    try:
        figures, tuned = trained(base, root)
    except Exception as error:
        return {"family": family, "error": f"{type(error).__name__}: {error}"}, None
    row = {"family": family, "packed": bool(figures["packed"]), "covered_share": figures["covered_share"]}
    row["loss"] = [p["loss"] for p in map(json.loads, (tuned / "curve.jsonl").read_text().splitlines())]
    return row | {"train_s": round(time.monotonic() - began, 1)}, tuned


def each(families: list[str], vllm: str | None, more: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a family."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        bases = {family: root / family / "base" for family in families}
        make_bases(bases, **more)
        found, pairs = [], []
        for family, base in bases.items():
            row, tuned = one(family, base, root / family)
            print(json.dumps(row), file=sys.stderr, flush=True)
            found.append(row)
            pairs += [(row, base, tuned)] if tuned else []
        for (row, _, tuned), told in zip(pairs, checked(*((b, t) for _, b, t in pairs)), strict=True):
            row.update(told | (in_vllm(vllm, tuned) if vllm else {}))
        return found


# ------------------------------------------------------------------ the whole path

RECIPE = """name: {family}
model: base
data: [{{path: rows.jsonl, ability: echo}}]
train: [{{stage: sft, lora_rank: 4, max_length: 128, max_steps: 60, learning_rate: 0.01}}]
gate: {{abilities: {{echo: {{eval: test.jsonl}}}}}}
serve: {{port: {port}}}
"""


def make_job(family: str, root: Path, port: int = 8000) -> Path:
    """A recipe with its base and rows."""
    make_base(family, root / "base", "bfloat16")
    (root / "rows.jsonl").write_text(rows(300, 1))
    (root / "test.jsonl").write_text(rows(220, 2))
    (root / "recipe.yaml").write_text(RECIPE.format(family=family, port=port))
    return root / "recipe.yaml"


def whole(family: str) -> dict[str, Any]:
    """`up` to the end of the gate: what the verdict says."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as root:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            recipe = make_job(family, Path(root), probe.getsockname()[1])
        command = [sys.executable, "-m", "steelyard", "up", str(recipe), "--yes", "--json", "--until", "gate"]
        done = subprocess.run(command, capture_output=True, text=True)
        row: dict[str, Any] = {
            "family": family,
            "exit": done.returncode,
            "s": round(time.monotonic() - began, 1),
        }
        document = json.loads(done.stdout or "{}")
        if done.returncode:
            return row | {"error": document.get("error", done.stderr[-500:])}
        gate = document["gate"]
        return row | {"gate": gate["verdict"], "checks": len(gate["checks"]), "scores": document["scores"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--whole", nargs="*", default=[])
    parser.add_argument("--vllm", metavar="PYTHON", help="an interpreter that has vLLM")
    parser.add_argument("--config", default="{}", help="words of every config.json: vLLM wants heads of 64")
    parser.add_argument("--no-each", action="store_true", help="only the whole paths")
    args = parser.parse_args()
    from steelyard.model import trl_versions

    paths = []
    found = [] if args.no_each else each(args.families, args.vllm, json.loads(args.config))
    for family in args.whole:
        paths.append(whole(family))
        print(json.dumps(paths[-1]), file=sys.stderr, flush=True)
    machine = {"cores": os.cpu_count(), "os": platform.platform()}
    document = {
        "bench": "families",
        "rows": found,
        "whole": paths,
        "versions": trl_versions(),
        "machine": machine,
    }
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
