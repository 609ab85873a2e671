"""When a checkpoint is taken, that it is read back, and that the one before it is there."""

from __future__ import annotations

import math

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from steelyard.artefact import Scratch, Watch, scratch
from steelyard.errors import Lacking, Stopped
from steelyard.training import train
from steelyard.training.steering.course import BETWEEN_FAILURES_S, LEAST, Due, interval_s


@given(st.floats(1e-3, 1e4), st.floats(60, 1e8))
def test_the_interval_loses_the_least(save_s, between_s):
    """Of each second C/T go into saving and T/2M are lost by failures: no other T loses less (Young 1974)."""

    def lost(interval):
        return save_s / interval + interval / (2 * between_s)

    best = interval_s(save_s, between_s)
    if best > LEAST * save_s:
        assert all(lost(best) <= lost(best * factor) for factor in (0.5, 0.9, 1.1, 2.0))
    assert save_s / best <= 1 / LEAST + 1e-9


def test_steps_of_the_recipe_go_before_the_clock():
    due = Due(steps=4)
    assert [n for n in range(1, 13) if due.is_due(n)] == [4, 8, 12]
    due = Due()
    due.saved(0.05)
    assert not due.is_due(1) and math.isclose(interval_s(0.05), math.sqrt(0.1 * BETWEEN_FAILURES_S))


class Stopping(Watch):
    """Stops after the checkpoint of this step."""

    def __init__(self, step):
        self.step, self.events = step, []

    def log(self, event, **fields):
        self.events.append((event, fields))
        if event == "train.checkpoint" and fields["step"] >= self.step:
            self.stop = True


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


DAMAGES = {
    "cut": lambda data: data[:-64],
    "a byte of a weight": lambda data: flipped(data, len(data) - 900),
    "a byte of the curve": lambda data: flipped(data, data.index(b"loss") + 1),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before_it(damage, base, data, tmp_path):
    settings = {"checkpoint_steps": 2, "dtype": "f32"}
    inputs, resolved, draft = tiny.step(tmp_path, base, data, **settings)
    with pytest.raises(Stopped):
        train(inputs, resolved, draft, Stopping(6))
    state = draft.scratch.folder / "state.safetensors"
    assert (draft.scratch.folder / "state.before.safetensors").exists()
    state.write_bytes(damage(state.read_bytes()))
    inputs, resolved, draft = tiny.step(tmp_path, base, data, **settings)
    watch = Stopping(10**6)
    train(inputs, resolved, draft, watch)
    assert [f for e, f in watch.events if e == "train.resumed"] == [{"step": 4}]
    (aside,) = (f for e, f in watch.events if e == "train.scratch_set_aside")
    assert aside["why"] == "digest mismatch"
    inputs, resolved, whole = tiny.step(tmp_path / "whole", base, data, **settings)
    train(inputs, resolved, whole, Watch())
    assert tiny.payload(draft.folder) == tiny.payload(whole.folder)


@pytest.mark.parametrize("sealed", [False, True])
def test_a_disk_that_gives_back_other_bytes_is_found_and_the_old_file_stays(sealed, tmp_path, monkeypatch):
    from steelyard.trust import load_keys

    kept = Scratch(tmp_path / "kept", load_keys("guarded", "own.key", tmp_path) if sealed else None)

    def write(text):
        (tmp_path / "new").write_text(text)
        kept.write("state", tmp_path / "new", before="state.before")

    write("one")
    write("two")
    assert (kept.read("state").read_text(), kept.read("state.before").read_text()) == ("two", "one")

    def damage(path):
        data = path.read_bytes()  # a sealed one may end on any byte
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    monkeypatch.setattr(scratch, "forget_pages", damage)
    with pytest.raises(Exception) as caught:  # a sealed file says so itself
        write("three")
    assert sealed or (isinstance(caught.value, Lacking) and caught.value.code == "disk.wrote_otherwise")
    assert (kept.read("state").read_text(), kept.read("state.before").read_text()) == ("two", "one")
