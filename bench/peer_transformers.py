"""transformers in-process, the faster of fixed batches and its continuous batching. A child of peers.py.

    python bench/peer_transformers.py FOLDER [--dtype bfloat16] [--how fixed|continuous]

Reads {"load", "users", "requests", "new", "seed"} a line, answers with figures a line.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import load
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from steelyard.model import Tokenizer


def fixed(model: torch.nn.Module, prompts: list[list[int]], users: int, new: int) -> int:
    """Batches of `users` prompts, padded at the left; tokens made."""
    made = 0
    for at in range(0, len(prompts), users):
        part = prompts[at : at + users]
        longest = max(map(len, part))
        ids = torch.tensor([[0] * (longest - len(p)) + p for p in part])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in part])
        out = model.generate(
            ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False
        )
        made += (out.shape[1] - longest) * len(part)
    return made


def continuous(model: torch.nn.Module, prompts: list[list[int]], users: int, new: int) -> int:
    """All prompts at once to its own scheduler, which is kinder than a stream of users."""
    config = GenerationConfig(max_new_tokens=new, do_sample=False, eos_token_id=-1, pad_token_id=0)
    found = model.generate_batch(inputs=prompts, generation_config=config, progress_bar=False)
    return sum(len(one.generated_tokens) for one in found.values())


HOW = {"fixed": fixed, "continuous": continuous}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--how", default="fixed", choices=tuple(HOW))
    args = parser.parse_args()
    attention = {"attn_implementation": "paged|sdpa"} if args.how == "continuous" else {}
    model = AutoModelForCausalLM.from_pretrained(args.folder, dtype=getattr(torch, args.dtype), **attention)
    model.eval()
    tokenizer = Tokenizer(args.folder)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        o = json.loads(line)
        wanted = load.bodies(o["load"], o["requests"], new=o["new"], seed=o["seed"])
        prompts = [tokenizer.chat_ids(body["messages"]) for body in wanted]
        began = time.perf_counter()
        with torch.inference_mode():
            made = HOW[args.how](model, prompts, o["users"], o["new"])
        wall = time.perf_counter() - began
        print(json.dumps({"output_tok_s": made / wall, "wall_s": wall}), flush=True)


if __name__ == "__main__":
    main()
