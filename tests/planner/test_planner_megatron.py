"""Published runs of Megatron: memory as printed, times held out, and the bench that measures both."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from steelyard.planner.physics.sizes import Sizes
from steelyard.planner.physics.training import RECOMPUTE, TrainSetup, train_memory_parts
from steelyard.shape import Shape

BENCH = Path(__file__).parents[2] / "bench"
GIB = 2**30
# Korthikanti et al. 2022 (arXiv 2205.05198), figure 1: layers, hidden, heads, t, p, v, micro-batch, batch,
# GiB of weights, gradients and optimiser of the layers, of activations (nothing repeated; selective and
# sequence parallel).
FIGURE = {
    "22b": ((48, 6144, 64, 8, 1, 1, 4, 4), 45.5625, 59.25, 9.5625),
    "175b": ((96, 12288, 96, 8, 8, 3, 1, 64), 45.5625, 66.84375, 12.3515625),
    "530b": ((105, 20480, 128, 8, 35, 3, 1, 280), 31.640625, 114.0234375, 23.076171875),
    "1t": ((128, 25600, 160, 8, 64, 1, 1, 512), 32.958984375, 131.25, 26.5625),
}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCH))
    sys.modules.pop("megatron", None)
    import megatron

    return megatron


def memory(numbers: tuple[int, ...], recompute: str, sp: float) -> dict[str, float]:
    layers, hidden, heads, *rest = numbers
    weights = 12 * layers * hidden**2
    shape = Shape(
        family="gpt", layers=layers, hidden=hidden, heads=heads, kv_heads=heads, head_dim=hidden // heads,
        ffn=4 * hidden, vocab=0, gated=False, tied=True, experts=0, experts_per_token=0, max_position=0,
        params=weights, active_params=weights, dtype="f16",
    )  # fmt: skip
    sizes = Sizes.of(shape, 2048.0)
    t, p, v, micro_batch, batch = map(float, rest)
    setup = TrainSetup(
        devices=t * p, t=t, p=p, v=v, micro_batch=micro_batch, global_batch=batch, seq_len=2048.0,
        recompute=float(RECOMPUTE[recompute]), sp=sp, zero=0.0, fused=0.0,
    )  # fmt: skip
    return {name: float(part) for name, part in train_memory_parts(sizes, setup).items()}


@pytest.mark.parametrize("model", FIGURE)
def test_memory_is_that_of_the_papers_figure(model: str) -> None:
    numbers, state, whole, selective = FIGURE[model]
    parts = memory(numbers, "none", 0.0)
    held = parts["weights"] + parts["gradients"] + parts["optimiser"]
    assert held / GIB == pytest.approx(state, rel=1e-3)
    assert parts["activations"] / GIB == pytest.approx(whole, rel=1e-3)
    assert memory(numbers, "selective", 1.0)["activations"] / GIB == pytest.approx(selective, rel=1e-3)


def row(**changed: object) -> dict[str, str]:
    known = {
        "table": "narayanan2021_t1", "model": "gpt-39.1b", "layers": 48, "hidden": 8192, "heads": 64,
        "seq": 2048, "vocab": 51200, "gpus": 512, "tp": 8, "pp": 2, "dp": 32, "micro_batch": 4,
        "global_batch": 1536, "recompute": "full", "sequence_parallel": 0, "value": 138,
        "unit": "tflops_per_gpu", "virtual_stages": 1, "zero": 0,
    }  # fmt: skip
    return {name: str(value) for name, value in (known | changed).items()}


def test_a_fit_finds_the_constant_its_rows_were_made_with(bench: ModuleType) -> None:
    rows = [row(hidden=h, heads=h // 128, tp=t, gpus=64 * t) for h in (6144, 8192, 12288) for t in (4, 8)]
    timed = bench.read(rows)
    known = {name: value for name, (value, _) in bench.PRIORS.items()}
    made = bench.Rows(
        rows, timed.sizes, timed.setup, timed.hardware, timed.step_s(known | {"train.efficiency": 0.66})
    )
    assert bench.fit(made, bench.ONE)["train.efficiency"] == pytest.approx(0.66, rel=0.02)


def test_flops_a_device_and_seconds_a_step_are_the_same_measure(bench: ModuleType) -> None:
    told = bench.read([row()])
    again = bench.read([row(value=told.seconds[0], unit="s_per_iteration")])
    assert again.seconds == pytest.approx(told.seconds)
    # 96 B s l h^2 (1 + s / 6h + V / 16lh) operations, Narayanan et al. 2021, equation 3
    flops = 96 * 1536 * 2048 * 48 * 8192**2 * (1 + 2048 / (6 * 8192) + 51200 / (16 * 48 * 8192))
    assert told.seconds[0] == pytest.approx(flops / (512 * 138e12))


def test_a_shape_is_never_on_both_sides_of_its_split(bench: ModuleType) -> None:
    rows = [row(layers=n, table=t) for t in bench.MEGATRON for n in (24, 24, 48, 96)]
    pairs = bench.splits(rows)["one of 12 shapes out"]
    assert sorted(i for _, out in pairs for i in out) == list(range(len(rows)))
    for use, out in pairs:
        assert not {bench.shape_of(rows[i]) for i in use} & {bench.shape_of(rows[i]) for i in out}


def test_calculon_is_asked_the_same_question(bench: ModuleType) -> None:
    asked = bench.peer_calculon.question(row(recompute="selective", sequence_parallel=1))
    execution = asked["execution"]
    splits = [execution[f"{kind}_par"] for kind in ("tensor", "pipeline", "data")]
    assert int(np.prod(splits)) == execution["num_procs"] == 512
    assert execution["activation_recompute"] == "attn_only" and execution["seq_par_ag_redo"]
    assert (execution["tensor_par_net"], execution["data_par_net"]) == (0, 1)
    assert bench.peer_calculon.question(row(zero=3)) is None


@pytest.mark.shared
def test_splits_of_the_published_tables(bench: ModuleType) -> None:
    if not bench.TABLES.exists():
        pytest.skip("STEELYARD_SHARED has no facts/megatron-tables.csv")
    rows = bench.read_table(bench.TABLES)
    found = bench.megatron(rows, None)
    assert found["rows"] == 25
    assert np.mean(list(found["ours"].values())) <= 0.033
    assert max(found["ours"][name] for name in bench.ACROSS) <= 0.05
