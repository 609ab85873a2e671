"""Tokenizers of GGUF files that are not byte-level BPE of the usual names: SentencePiece's, and tekken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_model_gguf import TEXTS

from steelyard.errors import WrongUse
from steelyard.model.gguf_tokenizer import TEKKEN_SPLIT, merges_of, tokenizer_config, tokenizer_json
from steelyard.shape import gguf_header

PLAIN = (Path(__file__).parents[1] / "conftest.py").read_text("utf-8")  # long, and no special token in it
WORDS = [f"▁{word}" for word in f"{PLAIN} the user asks the assistant again héllo wörld naïve café".split()]
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6


def spm_vocabulary(controls: tuple[str, ...] = ()) -> list[tuple[str, float, int]]:
    """(token, score, type) as Llama 2's: specials, bytes, then pieces in the order of their merges."""
    from tokenizers import Tokenizer, models, trainers

    trainer = trainers.BpeTrainer(vocab_size=700, show_progress=False)
    learnt = Tokenizer(models.BPE())
    learnt.train_from_iterator(WORDS * 3, trainer)
    model = json.loads(learnt.to_str())["model"]
    merged = ["".join(m) if isinstance(m, list) else m.replace(" ", "") for m in model["merges"]]
    letters = [t for t in model["vocab"] if len(t) == 1]
    rows = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    rows += [(token, 0.0, CONTROL) for token in controls]
    rows += [(f"<0x{n:02X}>", 0.0, BYTE) for n in range(256)]
    rows += [(token, -float(rank), NORMAL) for rank, token in enumerate(dict.fromkeys(merged))]
    return rows + [(token, -1e4 - n, NORMAL) for n, token in enumerate(letters)]


def spm_gguf(file: Path, controls: tuple[str, ...] = (), **fields) -> Path:
    from gguf import GGUFWriter

    rows = spm_vocabulary(controls)
    writer = GGUFWriter(file, "llama")
    writer.add_context_length(512)
    writer.add_tokenizer_model(fields.get("model", "llama"))
    writer.add_tokenizer_pre("default")
    writer.add_token_list([token for token, _, _ in rows])
    writer.add_token_scores([score for _, score, _ in rows])
    writer.add_token_types([kind for _, _, kind in rows])
    for name, value in (("bos", 1), ("eos", 2), ("unk", 0)):
        getattr(writer, f"add_{name}_token_id")(value)
    if "prefix" in fields:
        writer.add_add_space_prefix(fields["prefix"])
    writer.add_tensor("token_embd.weight", np.zeros((len(rows), 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def ours(file: Path):
    from tokenizers import Tokenizer

    return Tokenizer.from_str(tokenizer_json(gguf_header(file), file))


def theirs(file: Path):
    """What transformers makes of the same file: right but for blanks behind special tokens."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


@pytest.mark.parametrize("controls", [(), ("[INST]", "[/INST]", "[TOOL_CALLS]")])
def test_ids_equal_transformers_conversion(tmp_path, controls):
    file = spm_gguf(tmp_path / "x.gguf", controls)
    mine, other = ours(file), theirs(file)
    texts = [*(t for t in TEXTS if not t.startswith(" ")), PLAIN, "🎉 rare ☃"]
    for text in texts:
        ids = mine.encode(text, add_special_tokens=False).ids
        assert ids == other(text, add_special_tokens=False).input_ids
        assert mine.decode(ids, skip_special_tokens=False) == text
    assert any(f"<0x{byte:02X}>" in mine.encode("☃").tokens for byte in "☃".encode())  # falls back to bytes
    assert mine.encode("a").tokens[0] == "<s>"  # llama.cpp adds it where the file does not say


def test_merges_follow_the_scores():
    from transformers.tokenization_utils_base import generate_merges

    rows = spm_vocabulary()
    vocab = {token: n for n, (token, _, _) in enumerate(rows)}
    scores = {token: score for token, score, _ in rows}
    assert merges_of(vocab, scores) == generate_merges(vocab, scores)
    assert len(merges_of(vocab, scores)) > 300


def test_text_behind_a_special_token_begins_as_the_models_own(tmp_path):
    """Llama 2's tokenizer.json prepends a blank to every piece of text, Mistral v0.3's to the first alone."""
    old = ours(spm_gguf(tmp_path / "old.gguf"))
    new = ours(spm_gguf(tmp_path / "new.gguf", ("[INST]", "[/INST]")))
    assert old.encode("<s>the user", add_special_tokens=False).tokens[:2] == ["<s>", "▁the"]
    assert new.encode("<s>the user", add_special_tokens=False).tokens[:3] != ["<s>", "▁the"]
    assert new.encode("[INST] the user[/INST]", add_special_tokens=False).tokens[:2] == ["[INST]", "▁the"]
    assert new.encode("[INST]the", add_special_tokens=False).tokens[1] != "▁the"


def test_without_a_prefix_text_begins_as_it_stands(tmp_path):
    plain = ours(spm_gguf(tmp_path / "x.gguf", prefix=False))
    assert plain.encode(" the", add_special_tokens=False).tokens == ["▁the"]
    assert plain.decode(plain.encode(" the", add_special_tokens=False).ids) == " the"
    assert plain.encode("the", add_special_tokens=False).tokens != ["▁the"]


def test_other_special_tokens_are_refused(tmp_path):
    """Whether a blank follows them, a GGUF does not say; a guess would train on other ids than are served."""
    file = spm_gguf(tmp_path / "x.gguf", ("<|im_start|>", "<|im_end|>"))
    with pytest.raises(WrongUse, match=r"special tokens such as <\|im_end\|>") as error:
        tokenizer_json(gguf_header(file), file)
    assert "Hugging Face folder" in error.value.hint


def test_the_config_names_the_special_tokens(tmp_path):
    config = tokenizer_config(gguf_header(spm_gguf(tmp_path / "x.gguf")))
    assert (config["bos_token"], config["eos_token"], config["unk_token"]) == ("<s>", "</s>", "<unk>")


def test_tekken_splits_words_at_capitals():
    """The pattern in Mistral Nemo's tokenizer.json, with digits one by one and slashes kept to marks."""
    from tokenizers import Regex, pre_tokenizers

    split = pre_tokenizers.Split(Regex(TEKKEN_SPLIT), "isolated", False)
    cases = {
        "camelCase HTTPServer": ["camel", "Case", " HTTPServer"],
        "HELLO World": ["HELLO", " World"],
        "2024-07": ["2", "0", "2", "4", "-", "0", "7"],
        "a://b": ["a", "://", "b"],
        "ÄPFEL und birnen": ["ÄPFEL", " und", " birnen"],
        "x  y": ["x", " ", " y"],
        "你好，世界": ["你好", "，世界"],
    }
    for text, pieces in cases.items():
        assert [piece for piece, _ in split.pre_tokenize_str(text)] == pieces


def test_tekken_is_read(tiny_models, tmp_path):
    from test_model_gguf import make_gguf

    from steelyard.model import to_hf

    to_hf(make_gguf(tiny_models("llama"), tmp_path / "x.gguf", "llama", "tekken"), tmp_path / "out")
    made = json.loads((tmp_path / "out" / "tokenizer.json").read_text())
    assert made["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] == TEKKEN_SPLIT
    assert made["model"]["ignore_merges"] is True
