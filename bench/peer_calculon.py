"""Calculon's seconds of a training step, of published rows; the only file that knows how it is called.

    python bench/peer_calculon.py DIR < QUESTIONS.json   # DIR: a checkout, see peers.toml

A process of its own: it wants pandas for a command that is not used here. Its time is the sum of products,
passes over memory and messages, so it is a straight line in one over the speed of any of them; two speeds
tell the whole line.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

Row = Mapping[str, str]
NODE = 8
SYSTEM = "systems/a100_80g.json"  # its own A100; the other, a100_80e, has 0.99 of the peak in products
RECOMPUTE = {"none": "none", "selective": "attn_only", "full": "full"}
SLOWER = 0.5  # a second speed, of products and of memory, to see what each takes
LARGE_GIB = 1e6  # rows that ran are not refused for memory; seconds do not depend on its size


def lines(rows: Sequence[Row], network_bytes_per_s: float | None, directory: Path) -> dict[str, np.ndarray]:
    """Seconds a row of matrix products, of passes over memory and of the rest, by its shipped A100.

    A rate of the network a device replaces the shipped one. nan where it cannot: weights split by data
    parallelism (ZeRO 3).
    """
    asked = [question(r, network_bytes_per_s) for r in rows]
    done = subprocess.run(
        [sys.executable, __file__, str(directory)],
        input=json.dumps(asked),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    whole, products, memory = np.array(json.loads(done.stdout), float).T
    share = 1 / SLOWER - 1
    found = {"matrix": (products - whole) / share, "memory": (memory - whole) / share}
    return found | {"rest": whole - found["matrix"] - found["memory"]}


def question(row: Row, network_bytes_per_s: float | None = None) -> dict[str, Any] | None:
    """Its application and execution of a row: Megatron's order of groups, its settings of 2021 and 2022."""
    if row["zero"] == "3":
        return None
    count = {name: int(float(row[name])) for name in ("gpus", "tp", "pp", "dp", "hidden", "heads")}
    sequence = row["sequence_parallel"] == "1"
    inside = count["tp"] * count["dp"] <= NODE
    application = {
        "hidden": count["hidden"],
        "feedforward": 4 * count["hidden"],
        "seq_size": int(row["seq"]),
        "attn_heads": count["heads"],
        "attn_size": count["hidden"] // count["heads"],
        "num_blocks": int(row["layers"]),
    }
    execution = {
        "num_procs": count["gpus"],
        "tensor_par": count["tp"],
        "pipeline_par": count["pp"],
        "data_par": count["dp"],
        "tensor_par_net": int(count["tp"] > NODE),
        "pipeline_par_net": int(count["gpus"] > NODE),
        "data_par_net": int(not inside),
        "batch_size": int(row["global_batch"]),
        "microbatch_size": int(row["micro_batch"]),
        "datatype": "float16",
        "fused_activation": False,
        "attention_type": "multihead",
        "activation_recompute": RECOMPUTE[row["recompute"]],
        "pipeline_interleaving": int(row["virtual_stages"]),
        "optimizer_sharding": row["zero"] == "1" and count["dp"] > 1,
        "tensor_par_comm_type": "rs_ag" if sequence else "ar",
        "tensor_par_overlap": "none",
        "seq_par_ag_redo": sequence and row["recompute"] != "full",
        "data_par_overlap": False,
        "weight_offload": False,
        "activations_offload": False,
        "optimizer_offload": False,
        "training": True,
    }
    return {"application": application, "execution": execution, "network": network_bytes_per_s}


# ------------------------------------------------------------------ in the process of its own


def changed(
    system: dict[str, Any], network: float | None = None, matrix: float = 1.0, memory: float = 1.0
) -> dict[str, Any]:
    """Its system with another network, with products and memory at a share of their speed."""
    found = json.loads(json.dumps(system))
    if network:
        found["networks"][1]["bandwidth"] = network / 1e9
    found["matrix"]["float16"]["tflops"] *= matrix
    found["mem1"]["GBps"] *= memory
    found["mem1"]["GiB"] = LARGE_GIB
    return found


def main() -> None:
    """For each question the seconds as shipped, with products slowed and with memory slowed."""
    directory = Path(sys.argv[1])
    sys.modules["pandas"] = ModuleType("pandas")
    sys.path.insert(0, str(directory))
    from calculon.llm.llm import Llm
    from calculon.system import System

    shipped = json.loads((directory / SYSTEM).read_text())
    quiet = logging.getLogger("calculon")

    def seconds(asked: dict[str, Any] | None, matrix: float, memory: float) -> float:
        if asked is None:
            return float("nan")
        system = System(changed(shipped, asked["network"], matrix, memory))
        model = Llm(Llm.Application(asked["application"]), quiet)
        model.compile(system, Llm.Execution.from_json(asked["execution"]))
        model.run(system)
        return float(model.get_total_time())

    speeds = ((1.0, 1.0), (SLOWER, 1.0), (1.0, SLOWER))
    print(json.dumps([[seconds(asked, *at) for at in speeds] for asked in json.load(sys.stdin)]))


if __name__ == "__main__":
    main()
