"""An adapter that is gone on from, by own and by trl; refused where it is of another base or no LoRA."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from steelyard.artefact import Store, Watch, adopt
from steelyard.errors import CheckFailed, WrongUse
from steelyard.model import check_base, read_adapter, trl_python
from steelyard.model.adapters import TENSORS
from steelyard.training import CAPABILITIES, TrainNeed, train

ABSENT = CAPABILITIES["trl"]().unusable
F32 = {"dtype": "f32", "num_train_epochs": 4}


def run(root, base, data, **settings):
    inputs, resolved, draft = tiny.step(root, base, data, **{**F32, **settings})
    train(inputs, resolved, draft, Watch())
    points = [json.loads(line) for line in (draft.folder / "curve.jsonl").read_text().splitlines()]
    return [point["loss"] for point in points], draft.folder


@pytest.fixture(scope="module")
def begun(base, data, tmp_path_factory):
    """(losses, folder) of a training whose adapter the tests go on from."""
    return run(tmp_path_factory.mktemp("begun"), base, data)


def goes_on(folder, **more):
    adapter = read_adapter(folder / "adapter")
    sizes = {"lora_rank": adapter.rank, "lora_alpha": adapter.alpha, "target_modules": adapter.target_modules}
    return {"adapter": str(adapter.folder), "adapter_hash": "a" * 64, **sizes, **more}


def test_own_goes_on_where_the_adapter_stands(begun, base, data, tmp_path):
    losses, folder = begun
    again, _ = run(tmp_path / "more", base, data, **goes_on(folder, max_steps=8))
    assert again[0] < 0.9 * losses[0] and again[-1] < losses[-1]
    _, still = run(tmp_path / "still", base, data, **goes_on(folder, max_steps=1, learning_rate=1e-30))
    one, two = (load_file(at / "adapter" / TENSORS) for at in (folder, still))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.trl
@pytest.mark.timeout(900)
@pytest.mark.skipif(bool(ABSENT), reason=f"the engine trl: {ABSENT}")
def test_trl_goes_on_as_own_does(begun, base, data, tmp_path):
    own, _ = run(tmp_path / "own", base, data, **goes_on(begun[1], max_steps=4))
    trl, folder = run(tmp_path / "trl", base, data, **goes_on(begun[1], max_steps=4, engine="trl"))
    off = [abs(a - b) for a, b in zip(own, trl, strict=True)]
    assert off[0] <= 1e-6 and max(off) <= 1e-4
    assert read_adapter(folder / "adapter").rank == tiny.SETTINGS["lora_rank"]


PLAIN = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM as Model
base, tuned = sys.argv[1:]
ids = torch.tensor([list(range(3, 40))])
adapted = PeftModel.from_pretrained(Model.from_pretrained(base, dtype=torch.float32), tuned + "/adapter")
rounded = adapted.merge_and_unload().to(torch.bfloat16).float()
merged = Model.from_pretrained(tuned, dtype=torch.float32)
print((rounded(ids).logits - merged(ids).logits).abs().max().item())
"""


@pytest.mark.trl
@pytest.mark.timeout(900)
@pytest.mark.skipif(bool(ABSENT), reason=f"the engine trl: {ABSENT}")
def test_a_saved_module_is_trained_whole(base, data, tmp_path):
    """embed_tokens, with the head that is tied to it; both engines begin with the same loss."""
    more = {"engine": "trl", "modules_to_save": ["embed_tokens"], "max_steps": 8, "learning_rate": 3e-3}
    losses, folder = run(tmp_path / "saved", base, data, **more)
    plain, _ = run(tmp_path / "plain", base, data, **{**more, "modules_to_save": None})
    assert losses[0] == pytest.approx(plain[0], abs=1e-6) and losses[-1] < plain[-1]
    before, after = (
        load_file(at / "model.safetensors")["model.embed_tokens.weight"] for at in (base, folder)
    )
    assert (before.float() - after.float()).abs().max() > 1e-3
    words = [str(trl_python()), "-c", PLAIN, str(base), str(folder)]
    apart = float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    assert apart <= 1e-4
    with pytest.raises(WrongUse, match="the model has no module nothing"):
        run(tmp_path / "none", base, data, **{**more, "modules_to_save": ["nothing"]})


def test_own_leaves_saved_modules_to_trl():
    need = TrainNeed(family="llama", words=("modules_to_save",))
    assert CAPABILITIES["own"]().why_not(need) == "modules_to_save"
    assert CAPABILITIES["trl"]().why_not(need) is None


# ------------------------------------------------------------------ refused


def test_an_adapter_of_this_base_is_taken(begun, base):
    check_base(read_adapter(begun[1] / "adapter"), base)


@pytest.mark.parametrize(
    ("sizes", "why"),
    [
        ({"hidden": 128}, "and [64, 96] there"),
        ({"layers": 1}, "this model has not"),
        ({"layers": 3}, "leaves out"),
    ],
    ids=["wider", "shallower", "deeper"],
)
def test_an_adapter_of_another_base_is_one_clear_error(sizes, why, begun, tmp_path):
    other = tiny.model(tmp_path / "other", **sizes)
    with pytest.raises(WrongUse, match="is of another base than other") as caught:
        check_base(read_adapter(begun[1] / "adapter"), other)
    assert caught.value.code == "train.adapter_base" and why in caught.value.why


def test_an_artefacts_adapter_names_its_base(begun, base, tmp_path):
    """Of equal shapes, and another content all the same. The manifest is one that was published."""
    known = adopt(base)
    draft = Store(tmp_path / "store").draft("checkpoint", "k" * 64, "train", {}, {"base": known})
    shutil.copytree(begun[1], draft.folder, dirs_exist_ok=True)
    (draft.folder / "manifest.json").unlink(missing_ok=True)
    published = Store(tmp_path / "store").publish(draft, {}, {})
    adapter = read_adapter(published.folder / "adapter")
    check_base(adapter, base, known.hash)
    with pytest.raises(WrongUse, match="another base") as caught:
        check_base(adapter, base, "c" * 64)
    assert known.hash[:12] in caught.value.why


@pytest.mark.parametrize("text", ["{", "[]", '{"inputs": 3}', '{"inputs": [{"role": "base"}]}'])
def test_a_damaged_manifest_beside_an_adapter_is_one_error_that_names_it(text, begun, base, tmp_path):
    """What it was trained on is not known then: shapes alone let another base of that size pass."""
    shutil.copytree(begun[1] / "adapter", tmp_path / "a" / "adapter")
    adapter = read_adapter(tmp_path / "a" / "adapter")
    for kind in ("{}", '{"inputs": []}'):  # another program's, or of no base
        (tmp_path / "a" / "manifest.json").write_text(kind)
        check_base(adapter, base, "c" * 64)
    (tmp_path / "a" / "manifest.json").write_text(text)
    with pytest.raises(CheckFailed, match="a is no whole artefact") as caught:
        check_base(adapter, base, "c" * 64)
    assert caught.value.where.file == str(tmp_path / "a" / "manifest.json")


@pytest.mark.parametrize(
    ("word", "value"),
    [("use_dora", True), ("peft_type", "LOHA"), ("bias", "all"), ("rank_pattern", {"q_proj": 2})],
)
def test_what_is_no_plain_lora_is_named(word, value, begun, tmp_path):
    folder = shutil.copytree(begun[1] / "adapter", tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, word: value}))
    with pytest.raises(WrongUse, match="no plain LoRA") as caught:
        read_adapter(folder)
    assert caught.value.where.field == "train.adapter_name_or_path"


def test_a_folder_that_is_none_and_factors_of_another_rank(begun, tmp_path):
    with pytest.raises(WrongUse, match=r"has no adapter_config\.json"):
        read_adapter(tmp_path)
    folder = shutil.copytree(begun[1] / "adapter", tmp_path / "adapter")
    factors = load_file(folder / TENSORS)
    save_file({name: factor[:2].contiguous() for name, factor in factors.items()}, folder / TENSORS)
    with pytest.raises(WrongUse, match="not of its rank 4"):
        read_adapter(folder)
