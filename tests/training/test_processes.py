"""Several processes train as one: equal bytes on a CPU, rows that do not divide too; none is left behind.

What needs TRL's environment is marked trl and skipped without; FSDP2 runs on a CPU by fsdp_on_cpu.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from test_engine_trl import ABSENT, is_gone, killed_at, run

from steelyard.errors import Resumable, Stopped
from steelyard.training.engines.trl import engine, processes
from steelyard.training.engines.trl.child.group import seed_of
from steelyard.training.engines.trl.child.rows import EMPTY, dealt

TRL = [
    pytest.mark.trl,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(ABSENT), reason=f"the engine trl: {ABSENT}"),
]
HERE = Path(__file__).parent
# Three micro-batches a step and a last step of fewer: two processes do not divide them.
THREE = {"dtype": "f32", "num_train_epochs": 1, "max_length": 64, "grad_accum": 3, "threads": 1}
THREE |= {"finetuning_type": "full", "learning_rate": 1e-3, "engine": "trl"}


def of(count):
    return {"processes": count, "threads": count}  # one each


@given(lines=st.integers(1, 60), a_step=st.integers(1, 9), size=st.integers(1, 9))
def test_every_micro_batch_is_dealt_once_and_in_its_step(lines, a_step, size):
    numbers, rounds = dealt(lines, a_step, size)
    assert [n for n in numbers if n != EMPTY] == list(range(lines))
    assert rounds * size >= a_step and rounds == -(-a_step // size)
    if size == 1:
        return
    steps = [numbers[i : i + rounds * size] for i in range(0, len(numbers), rounds * size)]
    assert all(len(step) == rounds * size for step in steps)
    for number, step in enumerate(steps):
        wanted = range(number * a_step, min((number + 1) * a_step, lines))
        assert [n for n in step if n != EMPTY] == list(wanted)
        # The library gives line i to process i mod size: the order of the plan comes back by rounds.
        of = [step[rank::size] for rank in range(size)]
        assert list(chain.from_iterable(zip(*of, strict=True))) == step


@given(st.integers(0, 2**32 - 1), st.integers(0, 10_000), st.integers(0, 100), st.integers(0, 100))
def test_what_dropout_is_drawn_by_differs_by_micro_batch(seed, step, one, two):
    assert 0 <= seed_of(seed, step, one) < 2**63
    assert (seed_of(seed, step, one) == seed_of(seed, step, two)) == (one == two)


SUM = """
import sys, json, torch, torch.distributed as dist
sys.path.append(sys.argv[1])
from child.group import OrderedSum, leave
rank, size, batches, file = int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=size)
def gradients(n):
    draw = torch.Generator().manual_seed(n)
    return [torch.randn(shape, generator=draw) * 10 ** (n % 5) for shape in ((7, 3), (5,))]
weights = [torch.nn.Parameter(torch.zeros(7, 3)), torch.nn.Parameter(torch.zeros(5, dtype=torch.bfloat16))]
total = OrderedSum([*weights, torch.nn.Parameter(torch.zeros(2), requires_grad=False)], size)
for step in range(2):
    for turn in range(-(-batches // size)):
        number = turn * size + rank
        if number < batches:
            for weight, gradient in zip(weights, gradients(number)):
                weight.grad = gradient.to(weight.dtype)
        total.add()
    total.spread()
    wanted = [g.to(w.dtype) for w, g in zip(weights, gradients(0))]
    for number in range(1, batches):
        for have, weight, more in zip(wanted, weights, gradients(number)):
            have += more.to(weight.dtype)
    assert all(torch.equal(w.grad, have) for w, have in zip(weights, wanted)), step
    for weight in weights:
        weight.grad = None
leave()
"""


@pytest.mark.parametrize("size, batches", [(2, 5), (3, 4)])
def test_the_sum_of_several_is_that_of_one_to_the_bit(size, batches, tmp_path):
    """Real processes on gloo; float32 and bfloat16; a process that has no micro-batch left adds nothing."""
    folder = str(Path(engine.__file__).parent)
    command = [sys.executable, "-c", SUM, folder]
    more = [str(size), str(batches), str(tmp_path / "rendezvous")]
    environment = os.environ | processes.place(0, 2)
    started = [subprocess.Popen([*command, str(rank), *more], env=environment) for rank in range(size)]
    assert [child.wait(120) for child in started] == [0] * size


# ------------------------------------------------------------------ with TRL


@pytest.fixture(scope="module")
def one(base, data, tmp_path_factory):
    """The artefact of one process."""
    return run(tmp_path_factory.mktemp("one"), base, data, **THREE)[1]


def pytest_params(*values):
    return [pytest.param(value, marks=TRL) for value in values]


@pytest.mark.parametrize("count", pytest_params(2))
def test_a_killed_group_goes_on_to_the_bytes_of_one_process(count, one, base, data, tmp_path):
    settings = {**THREE, **of(count), "checkpoint_steps": 1}
    work = killed_at(tmp_path, base, data, settings, 2)
    assert is_gone(work)
    watch = tiny.Listening()
    _, several = run(tmp_path, base, data, watch, **settings)
    assert watch.of("train.resumed")
    assert tiny.payload(several) == tiny.payload(one)


class Killing(tiny.Listening):
    """Kills the second process of the group once, when a checkpoint is whole."""

    dead = False

    def log(self, event, **fields):
        super().log(event, **fields)
        ranks = [place for place in Path("/proc").glob("[0-9]*") if is_rank(place, 1)]
        if event == "train.checkpoint" and ranks and not self.dead:
            os.kill(int(ranks[0].name), signal.SIGKILL)
            self.dead = True


def is_rank(place, rank):
    try:
        mine = f"PPid:\t{os.getpid()}\n" in (place / "status").read_text()
        return mine and f"\0RANK={rank}\0".encode() in (place / "environ").read_bytes()
    except OSError:
        return False


class Stopping(tiny.Listening):
    def show(self, progress, closed=False):
        self.stop = progress.done > 0


@pytest.mark.parametrize("count", pytest_params(2))
def test_one_that_is_killed_ends_the_group_and_another_goes_on(count, one, base, data, tmp_path):
    """It was killed for its memory, says the fault: the group goes on with micro-batches in two parts."""
    watch, settings = Killing(), {**THREE, **of(count), "checkpoint_steps": 1}
    with pytest.raises(Resumable):
        run(tmp_path, base, data, watch, **settings)
    figures, several = run(tmp_path, base, data, watch, **settings)
    assert watch.dead and len(watch.of("train.fault")) == 1 and watch.of("train.resumed")
    assert figures["micro_batch_parts"] == 2
    assert not [place for place in Path("/proc").glob("[0-9]*") if is_rank(place, 0)]
    assert_near(one, several)


@pytest.mark.parametrize("count", pytest_params(2))
def test_a_stop_is_agreed_on(count, one, base, data, tmp_path):
    settings = {**THREE, **of(count), "checkpoint_steps": 1}
    with pytest.raises(Stopped):
        run(tmp_path, base, data, Stopping(), **settings)
    _, several = run(tmp_path, base, data, **settings)
    assert tiny.payload(several) == tiny.payload(one)


@pytest.mark.parametrize("way", pytest_params("ddp", "fsdp"))
def test_what_accelerators_get_is_the_same_training(way, one, base, data, tmp_path, monkeypatch):
    """accelerate's own ways, on gloo; the checkpoint of two processes is gone on from by three."""
    monkeypatch.setattr(engine, "reduce_of", lambda _: way)
    if way == "fsdp":
        monkeypatch.setattr(processes, "CHILD", HERE / "fsdp_on_cpu.py")
    settings = {name: THREE[name] for name in THREE if name != "threads"} | {"checkpoint_steps": 1}
    with pytest.raises(Stopped):
        run(tmp_path, base, data, Stopping(), **settings, **of(2))
    watch = tiny.Listening()
    _, several = run(tmp_path, base, data, watch, **settings, **of(3))
    assert watch.of("train.resumed")
    assert_near(one, several)


def assert_near(one, several):
    """The same training, its sums in another order."""
    losses = [[json.loads(x)["loss"] for x in (f / "curve.jsonl").open()] for f in (one, several)]
    assert max(abs(a - b) for a, b in zip(*losses, strict=True)) <= 1e-5
    first, second = tensors(one), tensors(several)
    assert set(first) == set(second)
    for name, weight in first.items():  # rounded to bf16 once: equal, or one step of bf16 apart
        assert (weight - second[name]).abs().max() <= weight.abs().max() * 2**-7, name


def tensors(folder):
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
