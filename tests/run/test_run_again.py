"""A training whose process is ended for its memory, or stands still, is started again and ends."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import tiny

from steelyard.errors import Lacking
from steelyard.run.child import again
from steelyard.run.child.children import run_step

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals and cgroups of Linux")
TRAINING = Path(__file__).parents[1] / "training"
SETTINGS = {"checkpoint_steps": 2, "max_steps": 300, "dtype": "f32", "engine": "own"}


class Listening(tiny.Listening):
    def __init__(self):
        super().__init__()
        self.written = []

    def write(self, event, **fields):
        self.written.append(fields.get("output", ""))


def trained(root, base, data, watch, **more):
    inputs, settings, draft = tiny.step(root, base, data, **SETTINGS | more)
    draft.settings = settings
    run_step("training:train", inputs.artefacts, draft, root / "store", None, watch, resumes=True)
    return draft.folder


def worker():
    """The training's process: other tests' services are children of ours too."""
    (process,) = (p for p in psutil.Process().children() if "steelyard.run.child.worker" in p.cmdline())
    return process


class Halting(Listening):
    """Stops the training's process at each checkpoint of a step, so many times."""

    def __init__(self, times):
        super().__init__()
        self.left = times

    def log(self, event, **fields):
        super().log(event, **fields)
        if event == "train.checkpoint" and fields["step"] >= 6 and self.left:
            self.left -= 1
            worker().send_signal(signal.SIGSTOP)


def test_a_training_that_stands_still_leaves_its_stacks_and_goes_on(base, data, tmp_path, monkeypatch):
    monkeypatch.setattr(again, "LEAST_S", 5.0)
    watch = Halting(1)
    folder = trained(tmp_path / "halted", base, data, watch)
    (hung,) = watch.of("train.hung")
    assert hung["silent_s"] >= 5 and watch.of("train.resumed")[0]["step"] >= 6
    stacks = "".join(watch.written)  # of all threads, whichever got the signal
    assert "most recent call first" in stacks and "training/loop.py" in stacks
    whole = trained(tmp_path / "whole", base, data, Listening())
    assert tiny.payload(folder) == tiny.payload(whole)


def test_one_that_keeps_standing_still_is_one_clear_error(base, data, tmp_path, monkeypatch):
    monkeypatch.setattr(again, "LEAST_S", 5.0)
    watch = Halting(9)
    with pytest.raises(Lacking, match="stood still 3 times") as caught:
        trained(tmp_path, base, data, watch, max_steps=3000)  # it is far from its end when it is stopped
    assert caught.value.code == "step.hung" and "steelyard logs" in caught.value.hint
    assert len(watch.of("train.hung")) == again.MOST_HANGS


# ------------------------------------------------------------------ patience, without a process


def step_said(done=1.0):
    return {"progress": "train", "done": done, "closed": False}


def after(patience, seconds, start):
    """Tick by tick; whether it stands still at the end, and when that is."""
    for _ in range(int(seconds * 10)):
        start += 0.1
        if patience.tick(start):
            return True, start
    return False, start


def test_silence_is_judged_by_the_median_step():
    patience, now = again.Patience(), 100.0
    for wait in (2.0, 30.0, 28.0, 32.0, 30.0):
        _, now = after(patience, wait, now)
        patience.hear(step_said())
    assert 149 < patience.limit_s < 151
    hung, now = after(patience, 149, now)
    assert not hung and after(patience, 3, now)[0]


def test_a_long_step_among_short_ones_is_no_hang():
    """One row of 30,000 characters among short ones ended its training three times on a busy machine."""
    patience, now = again.Patience(), 100.0
    patience.hear({"log": "train.planned", "fields": {"steps": 9, "longest_step": 40.0}})
    for _ in range(5):
        _, now = after(patience, 4, now)
        patience.hear(step_said())
    hung, now = after(patience, 790, now)
    assert not hung and after(patience, 20, now)[0]


def test_a_save_may_take_its_time_and_a_machine_may_sleep():
    patience, now = again.Patience(), 100.0
    for _ in range(5):
        _, now = after(patience, 1, now)
        patience.hear(step_said())
    patience.hear({"log": "train.saving", "fields": {}})
    hung, now = after(patience, 600, now)
    assert not hung
    patience.hear({"log": "train.checkpoint", "fields": {}})
    assert not patience.tick(now + 3600)  # this process slept too
    patience.hear({"progress": "train", "done": 9.0, "closed": True})
    assert not after(patience, 600, now + 3600)[0]  # what comes after the steps has no pace


# ------------------------------------------------------------------ the kernel's own killer

LIMITED = """
import json, sys
from pathlib import Path
group, limit = Path(sys.argv[1]), sys.argv[2]
v2 = (group / "cgroup.procs").exists() and (group / "memory.max").exists()
(group / ("memory.max" if v2 else "memory.limit_in_bytes")).write_text(limit)
(group / "cgroup.procs").write_text("0")
sys.path.insert(0, sys.argv[3])
import tiny
from steelyard.artefact import Watch
from steelyard.run.child.children import run_step
root, base, data = map(Path, sys.argv[4:7])
told = []
class Told(Watch):
    def log(self, event, **fields):
        if event in ("train.killed", "train.mended"):
            told.append([event, fields])
inputs, settings, draft = tiny.step(root, base, data, **json.loads(sys.argv[7]))
figures = run_step("training:train", inputs.artefacts, draft, root / "store", None, Told(), resumes=True)
print(json.dumps({"told": told, "figures": figures}))
"""


@pytest.fixture
def group():
    """A memory cgroup of our own; skipped where none can be made."""
    for parent in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")):
        folder = parent / f"steelyard-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            if any((folder / name).exists() for name in ("memory.max", "memory.limit_in_bytes")):
                yield folder
                return
        finally:
            folder.rmdir()
    pytest.skip("no memory cgroup can be made here")


def test_the_kernels_killer_leads_to_smaller_micro_batches(group, tmp_path):
    base = tiny.model(tmp_path / "base", hidden=256, ffn=1024, heads=4, head_dim=64, layers=4)
    data = tiny.dataset(tmp_path / "data", rows=256)
    settings = {"finetuning_type": "full", "dtype": "f32", "micro_batch": 128, "grad_accum": 1}
    settings |= {"max_steps": 2, "packing": False, "engine": "own"}
    words = [str(group), str(700 * 2**20), str(TRAINING), str(tmp_path), str(base), str(data)]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *words, json.dumps(settings)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout)
    assert answer["told"][0][0] == "train.killed"
    assert answer["figures"]["micro_batch_parts"] >= 2 and answer["figures"]["steps"] == 2


class Tight(Listening):
    """Limits what each process of the training may map, from its first step on: `room` above what it has."""

    def __init__(self, room):
        super().__init__()
        self.room, self.limited = room, set()

    def show(self, progress, closed=False):
        if progress.name != "train" or closed:
            return
        child = worker()
        if child.pid not in self.limited:
            self.limited.add(child.pid)
            limit = child.memory_info().vms + self.room
            resource.prlimit(child.pid, resource.RLIMIT_AS, (limit, limit))


def test_a_step_that_gets_no_memory_is_done_in_parts_by_a_fresh_process(tmp_path):
    base = tiny.model(tmp_path / "base", hidden=256, ffn=1024, heads=4, head_dim=64, layers=4)
    data = tiny.dataset(tmp_path / "data", rows=256)
    watch = Tight(350 * 2**20)
    settings = {
        "finetuning_type": "full",
        "micro_batch": 128,
        "grad_accum": 1,
        "max_steps": 2,
        "packing": False,
    }
    trained(tmp_path, base, data, watch, **settings)
    parts = [fields["micro_batch_parts"] for fields in watch.of("train.mended")]
    assert parts and parts == [2**n for n in range(1, len(parts) + 1)]
    assert len(watch.limited) == len(parts) + 1
