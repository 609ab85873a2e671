"""Calibration rows: cells, each in a process of its own as the probe runs it."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import tiny


def rows_of(*cells):
    order = json.dumps({"limit_s": 60, "cells": cells})
    command = [sys.executable, "-m", "steelyard.training.rehearsal", order, str(time.time())]
    lines = subprocess.run(command, capture_output=True, check=True).stdout.splitlines()
    return [json.loads(line) for line in lines]


def test_a_cell_gives_the_start_and_the_micro_step():
    cell = {**tiny.SIZES, "vocab": 1024, "finetuning_type": "lora", "lora_rank": 4, "tokens": 128}
    cell |= {"dtype": "bf16", "threads": 1}
    start, micro = rows_of(cell)
    assert start["op"] == "train_start"
    assert start["s"] > 0
    assert 0 < start["rss_bytes"] <= micro["rss_bytes"]
    assert micro["op"] == "train_micro"
    assert {key: micro[key] for key in cell} == cell
    assert micro["answer_tokens"] == 32
    assert all(micro[key] > 0 for key in ("s", "optimiser_s", "load_s", "write_s", "checkpoint_s"))
    assert micro["checkpoint_bytes"] > 0


def test_a_cell_that_fails_leaves_the_others_and_a_larger_one_takes_no_memory_of_an_earlier():
    cell = {**tiny.SIZES, "vocab": 1024, "finetuning_type": "lora", "lora_rank": 4, "tokens": 128}
    cell |= {"dtype": "bf16", "threads": 1}
    large = {**cell, "vocab": 200_000}
    _, first, last = rows_of(large, {**cell, "layers": -1}, cell)
    assert (first["vocab"], last["vocab"]) == (200_000, 1024)
    assert last["rss_bytes"] < first["rss_bytes"]
