"""A tiny mixture of experts that knows two tasks, pruned by the rows of one: what goes, and what that costs.

    python bench/prune_experts.py WORK [--steps 600] [--experts 16] [--keep reached 12 8 4 2]

A Qwen3-MoE of random weights learns by plain transformers (in the environment of the engine trl) to turn
words of letters round and to add two numbers, half of each batch either. Then `steelyard.compression.prune`
counts on rows of the first task alone and leaves out the experts that they use least; `reached`: those that
they never reach. Loss: the mean over held-out answers' tokens, in float32. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
from pathlib import Path
from typing import Any

from families import FAMILIES, SIZES, by_engine, make_tokenizer

from steelyard.artefact import Inputs, Store, Watch, adopt
from steelyard.compression import prune
from steelyard.model import Tokenizer, TransformersNetwork, trl_versions
from steelyard.shape import read

# Runs in the engine's environment: [words of config.json, rows of ids with the length of the prompt, folder].
TEACH = """
import json, sys, torch
from transformers import AutoConfig, AutoModelForCausalLM
words, file, out, steps = json.loads(sys.argv[1])
rows = json.load(open(file))
torch.manual_seed(0)
model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3_moe", **words)).float().train()
optimiser = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.0)
rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
draw = torch.Generator().manual_seed(0)
for step in range(steps):
    batch = [rows[i] for i in torch.randint(len(rows), (32,), generator=draw)]
    longest = max(len(ids) for ids, _ in batch)
    ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in batch])
    labels = torch.tensor([[-100] * at + ids[at:] + [-100] * (longest - len(ids)) for ids, at in batch])
    mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in batch])
    loss = model(ids, attention_mask=mask, labels=labels, output_router_logits=True).loss
    loss.backward()
    optimiser.step(), rates.step(), optimiser.zero_grad()
model.save_pretrained(out)
print(json.dumps({"loss": float(loss.detach())}))
"""
LETTERS, ROWS, HELD_OUT = "abcdefgh", 1500, 60


def turned(draw: random.Random) -> tuple[str, str]:
    word = "".join(draw.choice(LETTERS) for _ in range(4))
    return word, word[::-1]


def added(draw: random.Random) -> tuple[str, str]:
    one, other = draw.randrange(50), draw.randrange(50)
    return f"{one}+{other}", str(one + other)


TASKS = {"turned": turned, "added": added}


def rows_of(task: str, count: int, seed: int) -> list[dict[str, Any]]:
    draw, chats = random.Random(f"{task} {seed}"), []
    for _ in range(count):
        asked, answer = TASKS[task](draw)
        chats.append([{"role": "user", "content": asked}, {"role": "assistant", "content": answer}])
    return [{"ability": task, "messages": chat} for chat in chats]


def split(row: dict[str, Any], tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Ids of the prompt and of the answer with its end."""
    asked, answer = (message["content"] for message in row["messages"])
    prompt = f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"
    return tokenizer.encode(prompt), tokenizer.encode(f"{answer}<|im_end|>\n")


def made(work: Path, words: dict[str, Any], steps: int) -> Path:
    """The model of both tasks."""
    folder = work / "model"
    folder.mkdir(parents=True)
    make_tokenizer(folder)
    tokenizer = Tokenizer(folder)
    pairs = [split(row, tokenizer) for task in TASKS for row in rows_of(task, ROWS, 0)]
    (work / "rows.json").write_text(json.dumps([[[*p, *a], len(p)] for p, a in pairs]))
    by_engine(TEACH, json.dumps([words, str(work / "rows.json"), str(folder), steps]))
    return folder


def losses(folder: Path) -> dict[str, float]:
    """Of held-out answers, by task."""
    tokenizer, network, found = Tokenizer(folder), TransformersNetwork(folder, threads=1), {}
    for task in TASKS:
        own = [split(row, tokenizer) for row in rows_of(task, HELD_OUT, 1)]
        found[task] = -statistics.mean(float(value) for p, a in own for value in network.teach(p, a)[:-1, 0])
    network.close()
    return {task: round(value, 4) for task, value in found.items()}


def cut(folder: Path, work: Path, keep: str, experts: int) -> dict[str, Any]:
    """The model without experts: its figures."""
    data = work / "data"
    data.mkdir(exist_ok=True)
    (data / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows_of("turned", 500, 2)))
    inputs = Inputs({"checkpoint": adopt(folder), "dataset": adopt(data, "dataset")})
    further = keep == "reached"
    settings = {
        "experts": experts if further else int(keep),
        "further": further,
        "dtype": "f32",
        "threads": 1,
    }
    draft = Store(work / "store").draft("pruned", keep.rjust(64, "0"), "prune", settings, inputs.artefacts)
    figures = prune(inputs, settings, draft, Watch())
    note = json.loads((draft.folder / "pruned.json").read_text())
    row = {"keep": keep, "experts": int(figures["experts"]), "share": round(figures["share"], 3)}
    row |= {"never_reached": round(figures["never_reached"], 3), "exact": note["exact"]}
    row |= {"weight_lost": round(figures["weight_lost"], 4)}
    row |= {"reached": [experts - len(layer["never_reached"]) for layer in note["layers"]]}
    return row | sizes(draft.folder)


def sizes(folder: Path) -> dict[str, Any]:
    shape = read(folder)
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return {"params": shape.params, "active": shape.active_params, "bytes": stored, "loss": losses(folder)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--keep", nargs="*", default=["reached", "12", "8", "4", "2"])
    args = parser.parse_args()
    shutil.rmtree(args.work, ignore_errors=True)
    words = SIZES | FAMILIES["qwen3_moe"] | {"norm_topk_prob": True, "num_experts": args.experts}
    folder = made(args.work, words, args.steps)
    rows = [{"keep": "all", "experts": args.experts, "share": 1.0} | sizes(folder)]
    rows += [cut(folder, args.work, keep, args.experts) for keep in args.keep]
    print(json.dumps({"bench": "prune_experts", "rows": rows, "versions": trl_versions()}, indent=1))


if __name__ == "__main__":
    main()
