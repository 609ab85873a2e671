"""The bare engine in-process, tuned by hand: what HTTP, queue and safety cost. A child of peers.py.

    python bench/peer_bare.py FOLDER [--kv bf16]     FOLDER: a served folder (steelyard.serving.prepare)

Reads {"load", "users", "requests", "new", "seed"} a line, answers with figures a line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from typing import Any

import load
import numpy as np
import psutil

from steelyard.model import Tokenizer

# isort: split
import openvino as ov  # behind steelyard, which switches its telemetry off
import openvino_genai as genai


class Bare:
    def __init__(self, folder: str, precision: str, kv: str, prefix: bool) -> None:
        scheduler = genai.SchedulerConfig()
        scheduler.max_num_batched_tokens, scheduler.max_num_seqs, scheduler.cache_size = 2048, 64, 2
        scheduler.dynamic_split_fuse, scheduler.enable_prefix_caching = True, prefix
        properties = {
            "INFERENCE_PRECISION_HINT": precision, "KV_CACHE_PRECISION": kv,
            "INFERENCE_NUM_THREADS": psutil.cpu_count(logical=False),
        }  # fmt: skip
        self.tokenizer = Tokenizer(folder)
        self.pipeline = genai.ContinuousBatchingPipeline(folder, scheduler, "CPU", properties)
        self.serial = 0

    def run(self, kind: str, users: int, requests: int, new: int, seed: int) -> dict[str, float]:
        wanted = load.bodies(kind, requests, new=new, seed=seed)
        waiting = [self.tokenizer.chat_ids(body["messages"]) for body in wanted][::-1]
        config = genai.GenerationConfig()
        config.apply_chat_template, config.ignore_eos, config.max_new_tokens = False, True, new
        running: dict[int, Any] = {}
        asked, first, tokens = {}, {}, 0
        began = time.perf_counter()
        while waiting or running:
            while waiting and len(running) < users:
                self.serial += 1
                ids = ov.Tensor(np.array([waiting.pop()], np.int64))
                asked[self.serial] = time.perf_counter()
                running[self.serial] = self.pipeline.add_request(self.serial, ids, config)
            self.pipeline.step()
            for n, handle in list(running.items()):
                if handle.can_read():
                    for output in handle.read().values():
                        first.setdefault(n, time.perf_counter() - asked[n])
                        tokens += len(output.generated_ids)
                        if output.finish_reason != genai.GenerationFinishReason.NONE:
                            running.pop(n)
        wall = time.perf_counter() - began
        return {"output_tok_s": tokens / wall, "ttft_s": statistics.median(first.values()), "wall_s": wall}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--kv", default="bf16")
    parser.add_argument("--no-prefix", action="store_true")
    args = parser.parse_args()
    bare = Bare(args.folder, args.precision, args.kv, not args.no_prefix)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        o = json.loads(line)
        print(json.dumps(bare.run(o["load"], o["users"], o["requests"], o["new"], o["seed"])), flush=True)


if __name__ == "__main__":
    main()
