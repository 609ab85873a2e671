"""INT4 with rows: which rows are looked at, GPTQ against plain rounding, and what cannot be rounded."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.artefact import Inputs, Store, Watch, adopt
from steelyard.compression import compress, rounded_groups
from steelyard.compression import rows as rows_module
from steelyard.compression.calibrate import BLOCK, _inverse_root, _rounded, calibrate
from steelyard.compression.rounding import LEVELS
from steelyard.compression.rows import LONGEST, calibration_rows
from steelyard.errors import Stopped, WrongUse
from steelyard.model import Tokenizer, taught_examples, widened


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder):
    return Tokenizer(tokenizer_folder)


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def texts(names, words=6):
    return [{"text": f"{n} {name} " + "a " * words, "ability": name} for n, name in enumerate(names)]


# ------------------------------------------------------------------ rows


def test_abilities_take_turns_and_no_row_comes_twice(tokenizer, tmp_path):
    path = written(tmp_path / "train.jsonl", texts("a" * 40 + "b" * 4 + "c" * 10))
    rows = calibration_rows(path, tokenizer, 10**6)
    shown = [tokenizer.decode(ids) for ids in rows]
    assert len(set(shown)) == len(shown) == 54
    assert [text.split()[1] for text in shown[:12]] == list("abcabcabcabc")
    assert calibration_rows(path, tokenizer, 10**6) == rows  # by no chance


def test_a_part_of_the_rows_is_spread_over_all_of_the_file(tokenizer, tmp_path):
    path = written(tmp_path / "train.jsonl", texts("a" * 300))
    rows = calibration_rows(path, tokenizer, 400)
    numbers = sorted(int(tokenizer.decode(ids).split()[0]) for ids in rows[:-1])  # the last is cut
    gaps = np.diff([0, *numbers, 300])
    assert len(numbers) > 20 and max(gaps) < 3 * 300 / len(numbers)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=12), st.integers(0, 150))
@settings(max_examples=25)
def test_the_tokens_are_as_many_as_wanted_or_as_there_are(tokenizer, tmp_path_factory, sizes, wanted):
    path = written(tmp_path_factory.mktemp("rows") / "train.jsonl", [{"text": "a " * n} for n in sizes])
    every = [len(tokenizer.encode("a " * n)) + 1 for n in sizes]  # the end token
    rows = calibration_rows(path, tokenizer, wanted)
    held = sum(map(len, rows))
    assert all(len(ids) > 1 for ids in rows)
    assert held <= wanted
    assert held >= min(wanted - 1, sum(n for n in every if n > 1))  # one token alone teaches nothing


def test_no_row_is_read_once_there_are_enough(tokenizer, tmp_path, monkeypatch):
    """With one token left over every remaining row of the file used to be encoded and thrown away."""
    path = written(tmp_path / "train.jsonl", texts("a" * 50))
    read = []
    monkeypatch.setattr(
        rows_module, "taught_examples", lambda *row: read.append(row) or taught_examples(*row)
    )
    first = len(calibration_rows(path, tokenizer, 10**6)[0])
    read.clear()
    assert len(calibration_rows(path, tokenizer, first + 1)) == len(read) == 1


def test_a_long_row_is_cut_and_its_rest_teaches_nothing(tokenizer, tmp_path):
    path = written(tmp_path / "train.jsonl", [{"text": "a b c " * LONGEST}])
    (ids,) = calibration_rows(path, tokenizer, 10**6)
    assert len(ids) == LONGEST and ids == tokenizer.encode("a b c " * LONGEST)[:LONGEST]


def test_a_row_without_an_answer_is_left_out(tokenizer, tmp_path):
    question = {"messages": [{"role": "user", "content": "the question"}]}
    answered = {"messages": [*question["messages"], {"role": "assistant", "content": "the answer"}]}
    rows = calibration_rows(written(tmp_path / "train.jsonl", [question, answered]), tokenizer, 10**6)
    assert len(rows) == 1 and "the answer" in tokenizer.decode(rows[0])


@pytest.mark.parametrize("line", ["[1, 2]", "null", "7", '"text"', "", '{"ability": "a"}', "{"])
def test_a_line_that_is_no_row_is_named(tokenizer, tmp_path, line):
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "fine"}\n' + line + '\n{"text": "fine"}\n')
    with pytest.raises(WrongUse, match="not a training row") as e:
        calibration_rows(path, tokenizer, 10**6)
    assert e.value.where.line == 2 and e.value.where.file == "train.jsonl"


def test_an_empty_file_has_no_rows(tokenizer, tmp_path):
    assert calibration_rows(written(tmp_path / "train.jsonl", []), tokenizer, 100) == []


# ------------------------------------------------------------------ GPTQ


def gram_of(inputs):
    return torch.from_numpy(inputs.T @ inputs / len(inputs)).float()


def case(seed, rows=8, inputs=2 * BLOCK + 16, tokens=400):
    """A matrix and inputs that go together, some ten times as large as others: what GPTQ makes use of."""
    draw = np.random.default_rng(seed)
    weight = draw.standard_normal((rows, inputs)).astype(np.float32)
    x = draw.standard_normal((tokens, 8)) @ draw.standard_normal((8, inputs)) + 0.3 * draw.standard_normal(
        (tokens, inputs)
    )
    return weight, x * np.where(np.arange(inputs) % 7, 1, 10)


def lost(weight, wide, x):
    return float((((weight - wide) @ x.T) ** 2).mean())


@pytest.mark.parametrize("seed", range(3))
def test_what_the_rows_show_is_kept_better_than_by_plain_rounding(seed):
    weight, x = case(seed)
    grouped, wide = _rounded(torch.from_numpy(weight.copy()), gram_of(x), 16, "w")
    plain = rounded_groups(weight, 16)
    assert lost(weight, wide.numpy(), x) < 0.5 * lost(weight, widened(plain), x)
    assert grouped.size == 16 and grouped.codes.max() <= LEVELS and grouped.zero.max() <= LEVELS


def test_what_is_written_is_what_the_next_layer_was_fitted_to():
    weight, x = case(5)
    grouped, wide = _rounded(torch.from_numpy(weight), gram_of(x), 16, "w")
    assert np.array_equal(widened(grouped), wide.numpy())
    assert grouped.codes.dtype == grouped.zero.dtype == np.uint8 and grouped.scale.dtype == np.float16


def test_inputs_that_do_not_go_together_are_rounded_to_the_nearest_level():
    """A diagonal Gram matrix leaves no error to make good: each code is the nearest one of its grid."""
    weight, _ = case(1)
    grouped, _ = _rounded(torch.from_numpy(weight.copy()), torch.eye(weight.shape[1]), 16, "w")
    w = weight.reshape(len(weight), -1, 16)
    scale, zero = (a.astype(np.float32)[..., None] for a in (grouped.scale, grouped.zero))
    nearest = np.clip(np.rint(w / scale) + zero, 0, LEVELS).reshape(weight.shape)
    assert np.array_equal(grouped.codes, nearest)


def test_equal_inputs_give_equal_bytes():
    weight, x = case(2)
    one, two = (_rounded(torch.from_numpy(weight.copy()), gram_of(x), 16, "w")[0] for _ in range(2))
    assert all(np.array_equal(getattr(one, n), getattr(two, n)) for n in ("codes", "scale", "zero"))


@pytest.mark.parametrize("value", [0.0, 0.5, -0.5])
def test_a_constant_matrix_stays_one(value):
    weight = np.full((3, 32), value, np.float32)
    _, wide = _rounded(torch.from_numpy(weight.copy()), gram_of(case(0, inputs=32)[1]), 16, "w")
    assert np.abs(wide.numpy() - weight).max() <= abs(value) * 2**-10


def test_inputs_that_never_come_do_no_harm():
    """A channel that is 0 over all rows, or all of them, as with no row at all."""
    weight, x = case(3, inputs=32)
    x[:, 5] = 0
    for gram in (gram_of(x), torch.zeros(32, 32)):
        _, wide = _rounded(torch.from_numpy(weight.copy()), gram, 16, "w")
        assert np.isfinite(wide.numpy()).all() and np.abs(wide.numpy() - weight).max() < 2.0


def test_the_root_is_that_of_the_inverse():
    draw = np.random.default_rng(0)
    a = torch.from_numpy(draw.standard_normal((9, 9)))
    h = a @ a.T + torch.eye(9, dtype=torch.float64)
    root = _inverse_root(h)
    assert torch.allclose(root.T @ root @ h, torch.eye(9, dtype=torch.float64), atol=1e-9)
    assert torch.equal(root, root.triu())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_matrix_that_holds_no_number_is_refused_by_name(value):
    weight, x = case(0, inputs=32)
    weight[1, 3] = value
    with pytest.raises(WrongUse, match=r"layers\.0\.up"):
        _rounded(torch.from_numpy(weight), gram_of(x), 16, "layers.0.up")


# ------------------------------------------------------------------ a whole model


@pytest.fixture
def step(tiny_models, tmp_path):
    def run(rows):
        (tmp_path / "rows").mkdir()
        written(tmp_path / "rows" / "train.jsonl", rows)
        artefacts = {"checkpoint": adopt(tiny_models("llama")), "dataset": adopt(tmp_path / "rows")}
        draft = Store(tmp_path).draft("compressed", "x", "compress", {"form": "int4"}, artefacts)
        figures = compress(Inputs(artefacts=artefacts), {"form": "int4"}, draft, Watch())
        return figures, json.loads((draft.folder / "form.json").read_text())

    return run


def test_without_a_row_that_can_be_taught_no_calibration_is_claimed(step):
    """It used to be fitted on nothing, and form.json said that it was calibrated."""
    figures, form = step([{"messages": [{"role": "user", "content": "a question alone"}]}])
    assert figures["calibration_tokens"] == 0 and form["calibrated"] is False


def test_one_short_row_is_enough(step):
    figures, form = step([{"text": "the answer"}])
    assert 1 < figures["calibration_tokens"] < 20 and form["calibrated"] is True


def test_a_stop_is_heeded_between_layers(tiny_models):
    class Stopping(Watch):
        stop = True

    with pytest.raises(Stopped):
        calibrate(tiny_models("llama"), [[3, 4, 5]], 64, Stopping())


def test_every_matrix_of_a_layer_is_rounded_under_its_own_name(tiny_models):
    rounded = calibrate(tiny_models("qwen3"), [[3, 4, 5, 6], [7, 8]], 64, Watch())
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert sorted(n.split(".")[-2] for n in rounded) == sorted(names * 2)
    assert {n.split(".layers.")[1].split(".")[0] for n in rounded} == {"0", "1"}
