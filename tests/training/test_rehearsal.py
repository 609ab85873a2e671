"""Calibration rows: one cell, in its own process as the probe runs it."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import tiny


def test_a_cell_gives_the_start_and_the_micro_step():
    cell = {**tiny.SIZES, "vocab": 1024, "finetuning_type": "lora", "lora_rank": 4, "tokens": 128}
    cell |= {"dtype": "bf16", "threads": 1}
    command = [sys.executable, "-m", "steelyard.training.rehearsal", json.dumps(cell), str(time.time())]
    start, micro = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert start["op"] == "train_start"
    assert start["s"] > 0
    assert 0 < start["rss_bytes"] <= micro["rss_bytes"]
    assert micro["op"] == "train_micro"
    assert {key: micro[key] for key in cell} == cell
    assert micro["answer_tokens"] == 32
    assert all(micro[key] > 0 for key in ("s", "optimiser_s", "load_s", "write_s", "checkpoint_s"))
    assert micro["checkpoint_bytes"] > 0
