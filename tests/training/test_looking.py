"""Looks at held-out rows while a stage trains: best checkpoint, early stop, what is kept; and other words."""

from __future__ import annotations

import json
from array import array

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from steelyard.artefact import Watch
from steelyard.errors import Lacking, Stopped, WrongUse
from steelyard.model import Tokenizer, load
from steelyard.training import train
from steelyard.training.methods import METHODS
from steelyard.training.packing import learning_rate
from steelyard.training.rows import Rows, TrainingExample, batch_of, read_rows
from steelyard.training.steering.mix import hold_out_each
from steelyard.training.steering.validation import best, hold_out, kept_steps, stops_early

LOOKING = {"val_size": 0.25, "eval_steps": 2, "num_train_epochs": 8, "dtype": "f32"}


def run(root, base, data, **settings):
    inputs, resolved, draft = tiny.step(root, base, data, **settings)
    figures = train(inputs, resolved, draft, Watch())
    curve = [json.loads(line) for line in (draft.folder / "curve.jsonl").read_text().splitlines()]
    return figures, draft.folder, curve


def test_the_loss_of_a_look_is_that_of_the_rows_held_out(base, data, tmp_path):
    """Of the written model, computed anew by the training loss; none of these rows is taught."""
    figures, folder, curve = run(tmp_path, base, data, **LOOKING, load_best_model_at_end=True)
    account = json.loads((folder / "taught.json").read_text())
    assert account["dropped"] == {"held_out": 6} and account["taught"] == 18
    assert [p["step"] for p in curve if "eval_loss" in p] == [*range(2, len(curve), 2), len(curve)][
        : -(-len(curve) // 2)
    ]
    found = best(curve)
    assert figures["best_step"] == found["step"] and figures["eval_loss"] == found["eval_loss"]
    rows = read_rows(data / "train.jsonl", Tokenizer(base), tiny.SETTINGS)
    hold_out(rows, {**tiny.SETTINGS, "val_size": 0.25})
    network = load(folder, "float32")
    network.anchor = torch.zeros((), requires_grad=True)
    taught = sum(row.taught_tokens for row in rows.kept_back)
    loss = METHODS["sft"](network, batch_of(rows.kept_back, network), taught)
    assert loss.item() == pytest.approx(found["eval_loss"], rel=0.01)  # the file is rounded to bf16


def test_each_look_is_told_before_it_begins(base, data, tmp_path):
    """A look at many rows is silent for long, and is no hang."""
    inputs, resolved, draft = tiny.step(tmp_path, base, data, **LOOKING)
    watch = tiny.Listening()
    train(inputs, resolved, draft, watch)
    lines = (draft.folder / "curve.jsonl").read_text().splitlines()
    looks = [p["step"] for p in map(json.loads, lines) if "eval_loss" in p]
    assert [fields["step"] for fields in watch.of("train.evaluating")] == looks


def test_the_best_model_is_the_result_and_patience_ends_the_stage(base, data, tmp_path):
    """At a rate that destroys what was learnt the first look is the best."""
    wild = {**LOOKING, "learning_rate": 1.0, "lr_scheduler_type": "constant", "max_steps": 40}
    wild |= {"load_best_model_at_end": True, "early_stopping_patience": 3}
    figures, folder, curve = run(tmp_path / "a", base, data, **wild)
    step = int(best(curve)["step"])
    assert len(curve) == step + 6 < 40 and figures["best_step"] == step
    settings = {**wild, "max_steps": 40, "load_best_model_at_end": False, "early_stopping_patience": None}

    class Ending(Watch):
        def show(self, progress, closed=False):
            pass

    inputs, resolved, draft = tiny.step(tmp_path / "b", base, data, **settings)
    from steelyard.training.loop import Loop

    whole = Loop._ended
    Loop._ended = lambda self: self.done >= step
    try:
        train(inputs, resolved, draft, Ending())
    finally:
        Loop._ended = whole
    wanted, found = tiny.payload(draft.folder), tiny.payload(folder)
    assert found["model.safetensors"] == wanted["model.safetensors"]


@pytest.mark.parametrize("finetuning_type", ["lora", "full"])
def test_a_killed_run_keeps_the_same_best_and_the_same_checkpoints(finetuning_type, base, data, tmp_path):
    settings = {**LOOKING, "finetuning_type": finetuning_type, "checkpoint_steps": 3, "save_steps": 2}
    settings |= {"load_best_model_at_end": True, "save_total_limit": 2, "num_train_epochs": 4}
    settings |= {"learning_rate": 0.05 if finetuning_type == "lora" else 1e-3, "lora_dropout": 0.1}
    _, whole, curve = run(tmp_path / "whole", base, data, **settings)
    tiny.killed(tmp_path / "killed", base, data, settings, 4)
    _, resumed, _ = run(tmp_path / "killed", base, data, **settings)
    assert tiny.payload(resumed) == tiny.payload(whole)
    kept = sorted(p.name for p in (whole / "checkpoints").iterdir())
    assert (
        kept == sorted(f"checkpoint-{n}" for n in kept_steps(curve, len(curve), settings)) and len(kept) == 2
    )
    one = whole / "checkpoints" / kept[0]
    assert (
        one / ("adapter_model.safetensors" if finetuning_type == "lora" else "model.safetensors")
    ).exists()


# ------------------------------------------------------------------ what follows from a curve


curves = st.lists(st.one_of(st.none(), st.integers(1, 9)), min_size=1, max_size=40).map(
    lambda looks: [
        {"step": n, "loss": 1.0} | ({} if loss is None else {"eval_loss": float(loss)})
        for n, loss in enumerate(looks, 1)
    ]
)


@given(curves, st.integers(1, 5))
def test_an_early_stop_holds_the_best_and_never_comes_before_patience(curve, patience):
    ends = [n for n in range(1, len(curve) + 1) if stops_early(curve[:n], patience)]
    for n in ends[:1]:
        looks = [p["eval_loss"] for p in curve[:n] if "eval_loss" in p]
        assert len(looks) > patience and min(looks) == best(curve[:n])["eval_loss"]
        assert all(loss >= min(looks) for loss in looks[-patience:])


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 5))
def test_what_is_kept_is_the_newest_and_never_the_result_itself(steps, every, limit):
    settings = {"save_steps": every, "save_total_limit": limit}
    curve = [{"step": n} for n in range(1, steps + 1)]
    kept = kept_steps(curve, steps, settings)
    assert kept == [n for n in range(every, steps, every)][-limit:]


# ------------------------------------------------------------------ schedulers, clipping, targets, dropout


@pytest.mark.parametrize("name", ["cosine", "linear", "constant", "constant_with_warmup", "inverse_sqrt"])
def test_rates_after_the_warm_up_are_those_of_transformers(name):
    """The same course from the peak on; our warm-up starts above 0, so it is compared from its end."""
    transformers = pytest.importorskip("transformers")
    steps, warm = 40, 8
    weights = [torch.nn.Parameter(torch.zeros(1))]
    optimiser = torch.optim.SGD(weights, lr=1.0)
    theirs = transformers.get_scheduler(name, optimiser, num_warmup_steps=warm, num_training_steps=steps)
    settings = {"learning_rate": 1.0, "lr_scheduler_type": name, "warmup_steps": warm}
    wanted = []
    for _ in range(steps):
        wanted.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        theirs.step()
    found = [learning_rate(n, steps, settings) for n in range(steps)]
    # 1/sqrt: theirs counts from step 0, ours from 1, so that no rate is infinite
    assert found[warm:] == pytest.approx(wanted[warm:], rel=0.07 if name == "inverse_sqrt" else 1e-9)


def test_gradients_are_clipped_to_the_norm_that_is_asked_for(base, data, tmp_path):
    from steelyard.training.loop import Loop

    norms, whole = [], Loop.update

    def update(self, rate, rows=()):
        step = self.optimiser.step
        self.optimiser.step = lambda: (norms.append(float(self.learnt.grad.norm())), step())
        whole(self, rate, rows)
        self.optimiser.step = step

    Loop.update = update
    try:
        run(tmp_path, base, data, max_grad_norm=0.01, max_steps=3)
    finally:
        Loop.update = whole
    assert norms == pytest.approx([0.01] * 3, rel=1e-4)


def test_only_the_named_matrices_are_adapted_as_in_peft(base, data, tmp_path):
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    targets = ["q_proj", "v_proj", "down_proj"]
    figures, folder, _ = run(tmp_path, base, data, target_modules=targets, num_train_epochs=8)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = peft.PeftModel.from_pretrained(model, folder / "adapter")
    assert figures["trainable_params"] == sum(
        p.numel() for n, p in adapted.named_parameters() if "lora_" in n
    )
    merged = dict(adapted.merge_and_unload().named_parameters())
    first, tuned = dict(load(base).tensors()), dict(load(folder).tensors())
    for name, weight in tuned.items():
        assert torch.equal(merged[name].bfloat16().float(), weight), name
        assert torch.equal(first[name].bfloat16().float(), weight) != (name.split(".")[-2] in targets), name


def test_a_target_that_no_layer_has_is_refused_by_name(base, data, tmp_path):
    with pytest.raises(WrongUse, match="no matrix w_pack") as caught:
        run(tmp_path, base, data, target_modules=["q_proj", "w_pack"])
    assert "q_proj" in caught.value.hint


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("dtype", ["bf16", "f32"])
def test_layers_computed_again_give_the_same_bits(kind, dtype, base, data, tmp_path):
    settings = {"finetuning_type": kind, "dtype": dtype, "learning_rate": 1e-3}
    settings |= {"lora_dropout": 0.25} if kind == "lora" else {}
    _, plain, _ = run(tmp_path / "a", base, data, **settings)
    _, again, _ = run(tmp_path / "b", base, data, **settings, gradient_checkpointing=True)
    assert tiny.payload(again) == tiny.payload(plain)


def test_dropout_leaves_out_its_share_and_has_the_gradient_of_its_mask(base):
    from steelyard.model import Chance, Dropout
    from steelyard.model.kernels import Linear

    chance = Chance()
    chance.at = (0, 1, 2)
    dropout, x = Dropout(0.25, 3, chance), torch.randn(64, 32, requires_grad=True)
    mask = dropout.mask(x.detach())
    assert torch.equal(mask, dropout.mask(x.detach()))
    assert mask.unique().tolist() == pytest.approx([0.0, 256 / 192])
    assert abs((mask == 0).float().mean() - 0.25) < 0.03
    draw = torch.Generator().manual_seed(0)
    weight, a, b = (torch.randn(*s, generator=draw) for s in ((16, 32), (4, 32), (16, 4)))
    layer = Linear(weight, None, (("m", 16),))
    layer.anchor = torch.zeros((), requires_grad=True)
    layer.adapt(a, b, torch.zeros(4, 32), torch.zeros(16, 4), dropout)
    wanted_a, wanted_b = a.clone().requires_grad_(True), b.clone().requires_grad_(True)
    wanted = x @ weight.t() + (x * mask) @ wanted_a.t() @ wanted_b.t()
    slope = torch.randn(64, 16, generator=draw)
    dx, da, db = torch.autograd.grad(wanted, (x, wanted_a, wanted_b), slope)
    layer(x).backward(slope)
    assert torch.allclose(x.grad, dx, atol=1e-4)
    assert torch.allclose(layer.adapter.a_grad, da, atol=1e-3)
    assert torch.allclose(layer.adapter.b_grad, db, atol=1e-3)
    chance.at = (0, 1, 3)
    assert not torch.equal(mask, dropout.mask(x.detach()))


# ------------------------------------------------------------------ precision


def test_fp8_rounds_to_eight_bits_by_a_scale_of_the_steps_before():
    from steelyard.model import Fp8

    state, values = Fp8(1), torch.randn(200, generator=torch.Generator().manual_seed(0)).bfloat16()
    first = state.rounded(values, 0, "x")
    assert ((first - values).abs() <= values.abs() / 16 + 1e-4).all() and not torch.equal(first, values)
    state.end_step()
    saturated = state.rounded(values * 100, 0, "x")
    most = 448 * 2.0 ** -int(torch.floor(torch.log2(448 / values.abs().max())))
    assert saturated.abs().max() == most  # the scale is still that of the step before
    state.end_step()
    assert state.rounded(values * 100, 0, "x").abs().max() > 0.9 * 100 * values.abs().max()
    assert state.history[0, 0].count_nonzero() == 2 and state.history[0, 1:].count_nonzero() == 0


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_fp8_learns_as_bf16_does_and_resumes_to_the_same_bytes(kind, base, data, tmp_path):
    settings = {"finetuning_type": kind, "learning_rate": 1e-2 if kind == "lora" else 1e-3}
    settings |= {"num_train_epochs": 8}
    _, _, plain = run(tmp_path / "bf16", base, data, **settings)
    _, whole, curve = run(tmp_path / "fp8", base, data, **settings, fp8=True)
    assert [p["loss"] for p in curve] != [p["loss"] for p in plain]
    assert curve[-1]["loss"] == pytest.approx(plain[-1]["loss"], rel=0.05)

    class Stopping(Watch):
        def log(self, event, **fields):
            self.stop = event == "train.checkpoint" and fields["step"] == 3

    inputs, resolved, draft = tiny.step(
        tmp_path / "two", base, data, **settings, fp8=True, checkpoint_steps=3
    )
    with pytest.raises(Stopped):
        train(inputs, resolved, draft, Stopping())
    _, resumed, _ = run(tmp_path / "two", base, data, **settings, fp8=True, checkpoint_steps=3)
    assert tiny.payload(resumed) == tiny.payload(whole)


# ------------------------------------------------------------------ trackers


def test_a_tracker_that_is_not_installed_is_named_before_anything_is_trained(
    base, data, tmp_path, monkeypatch
):
    from steelyard.training.engines import trackers

    monkeypatch.setitem(trackers.MODULES, "wandb", "no_such_module")
    with pytest.raises(Lacking, match="report_to names wandb") as caught:
        run(tmp_path, base, data, report_to=["wandb"])
    assert caught.value.hint.startswith("pip install wandb")


def test_tensorboard_has_the_whole_curve_of_a_resumed_run(base, data, tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    settings = {**LOOKING, "report_to": ["tensorboard"], "checkpoint_steps": 2}

    class Stopping(Watch):
        def log(self, event, **fields):
            self.stop = event == "train.checkpoint" and fields["step"] == 4

    inputs, resolved, draft = tiny.step(tmp_path, base, data, **settings)
    with pytest.raises(Stopped):
        train(inputs, resolved, draft, Stopping())
    _, folder, curve = run(tmp_path, base, data, **settings)
    files = reader.EventAccumulator(str(tmp_path / "tracking" / "tensorboard" / ("k" * 12)))
    files.Reload()
    told = {event.step: event.value for event in files.Scalars("train/loss")}
    assert told == pytest.approx({p["step"]: p["loss"] for p in curve}, rel=1e-5)
    looks = {p["step"]: p["eval_loss"] for p in curve if "eval_loss" in p}
    assert {e.step: e.value for e in files.Scalars("eval/loss")} == pytest.approx(looks, rel=1e-5)
    assert not (folder / "tracking").exists()


@pytest.mark.parametrize("tool", ["wandb", "mlflow"])
def test_other_trackers_write_offline_into_the_runs_folder(tool, base, data, tmp_path):
    pytest.importorskip(tool)
    run(tmp_path, base, data, report_to=[tool], max_steps=2)
    wanted = {"wandb": "wandb/offline-run-*", "mlflow": "mlflow.db"}[tool]
    assert list((tmp_path / "tracking" / tool).glob(wanted))


def held_back(groups, share, count=40):
    rows = Rows(examples=[TrainingExample(array("I", [1, 2]), b"\0\1", "main", n) for n in range(count)])
    rows.groups = groups
    hold_out(rows, {"val_size": share, "seed": 3})
    assert rows.dropped["held_out"] == len(rows.kept_back)
    assert sorted(e.number for e in [*rows.examples, *rows.kept_back]) == list(range(count))
    return {example.number for example in rows.kept_back}


def test_rows_that_ask_nearly_the_same_are_held_out_together():
    """By the name of their group; without groups as ever."""
    alone = held_back({}, 0.25)
    assert len(alone) == 10
    groups = {n: f"g{n // 4}" for n in range(0, 20)} | {n: "large" for n in range(25, 40)}
    held = held_back(groups, 0.25)
    sides = {name: {n in held for n, of in groups.items() if of == name} for name in set(groups.values())}
    assert (
        all(len(side) == 1 for side in sides.values()) and sides["large"] == {False} and 0 < len(held) <= 10
    )
    assert held_back({n: f"g{n > 12}" for n in range(40)}, 0.1) == set(range(13))
    assert len(held_back(dict.fromkeys(range(40), "all"), 0.1)) == 4


def test_a_mix_is_steered_by_whole_groups_of_each_ability():
    """None of the rows that a look scores has a near duplicate that is taught; without groups as ever."""
    examples = [TrainingExample(array("I", [1, 2]), b"\0\1", "ab"[n % 2], n) for n in range(80)]
    taught = {}
    for groups in ({}, {n: f"{'ab'[n % 2]}{n // 8}" for n in range(80)}):
        rows = Rows(examples=list(examples), groups=groups)
        hold_out_each(rows, 3, most=8, share=0.2)
        assert {e.ability: sum(o.ability == e.ability for o in rows.kept_back) for e in rows.kept_back} == {
            "a": 8, "b": 8,
        }  # fmt: skip
        sides = {groups[e.number] for e in rows.kept_back if groups} & {
            groups[e.number] for e in rows.examples if groups
        }
        assert not sides
        taught[bool(groups)] = [e.number for e in rows.examples]
    assert taught[False] != taught[True]
