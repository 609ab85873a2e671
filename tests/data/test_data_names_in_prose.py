"""Names and addresses in running prose, by a token classifier that the user names."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from steelyard.data import clean_files, fingerprint, redact
from steelyard.data.steps.prose import persons
from steelyard.data.steps.tagger import Label, label_of, tagger
from steelyard.errors import Lacking, WrongUse
from tests.data.test_data_whole import write

LABELS = ("O", "B-PER", "I-PER", "B-ADDRESS", "I-ADDRESS")
WORDS = {
    "B-PER": ("Tom", "Lucia", "Ana", "张", "李"), "I-PER": ("Hale", "Bran", "##dt", "伟", "娜"),
    "B-ADDRESS": ("Elm",), "I-ADDRESS": ("Court", "Seven"),
    "O": ("Yesterday", "met", "near", "the", "river", ".", ",", "was", "late", "Mr", "and", "def", "lives",
          "昨", "天", "来", "了"),
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A BERT without layers: the embedding of each word says its label, so what it finds is known."""
    return made(tmp_path_factory.mktemp("names"), dict(enumerate(LABELS)))


def made(folder, id2label):
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForTokenClassification

    vocabulary = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", *(w for words in WORDS.values() for w in words)]
    label_of_word = {w: LABELS.index(label) for label, words in WORDS.items() for w in words}
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=8, num_hidden_layers=0, num_attention_heads=1,
        intermediate_size=8, max_position_embeddings=34, id2label=id2label,
    )  # fmt: skip
    net = BertForTokenClassification(config)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.bert.embeddings.LayerNorm.weight.fill_(1)
        for number, word in enumerate(vocabulary):
            net.bert.embeddings.word_embeddings.weight[number, label_of_word.get(word, 0)] = 9
        net.classifier.weight[:, : len(LABELS)] = torch.eye(len(LABELS))[: len(id2label)]
    net.save_pretrained(folder)
    numbers = {word: n for n, word in enumerate(vocabulary)}
    words = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    words.save(str(folder / "tokenizer.json"))
    return folder


def tagged(model, *parts):
    return redact(list(parts), tagger(str(model)))[0]


def test_one_person_has_one_placeholder_in_all_texts_of_a_row(model):
    question, answer = tagged(
        model,
        "Yesterday Tom Hale met Lucia Brandt near the river.",
        "Hale was late, Mr Hale's dog and Lucia too.",
    )
    assert question == "Yesterday <NAME_1> met <NAME_2> near the river."
    assert answer == "<NAME_1> was late, Mr <NAME_1>'s dog and <NAME_2> too."


def test_names_and_addresses_in_chinese_and_english(model):
    assert tagged(model, "昨天张伟来了，李娜和张伟很高兴。") == [
        "昨天<NAME_1>来了，<NAME_2>和<NAME_1>很高兴。"
    ]
    assert tagged(model, "Ana lives near Elm Court Seven.") == ["<NAME_1> lives near <ADDRESS_1>."]


def test_what_the_checks_replaced_is_left_and_a_labelled_name_is_the_same_person(model):
    [text] = tagged(model, "Name: Tom Hale\nMail tom.hale@mail.example. Yesterday Tom was late.")
    assert text == "Name: <NAME_1>\nMail <EMAIL_1>. Yesterday <NAME_1> was late."


def test_a_long_text_is_looked_at_whole(model):
    filler = "the river was near , and the river was late . " * 12
    [text] = tagged(model, f"{filler}Tom Hale {filler}Lucia Brandt {filler}Elm Court")
    assert "<NAME_1>" in text and "<NAME_2>" in text and text.endswith("<ADDRESS_1>")
    assert "Hale" not in text and "Brandt" not in text


def test_a_word_that_the_tokenizer_cuts_is_replaced_whole(model):
    assert tagged(model, "Yesterday Brandt met Brandtxy.") == ["Yesterday <NAME_1> met Brandtxy."]


def test_rows_are_cleaned_with_it_and_code_is_not(model, tmp_path):
    code = "def Tom(x):\n    Hale = x + 1\n    return Hale\n\n\ndef Lucia(y):\n    return Tom(y)\n"
    rows = [
        {"id": "prose", "text": "Yesterday Tom Hale met Lucia near the river and was late."},
        {"id": "code", "text": code},
        {"id": "chat", "messages": [{"role": "user", "content": "Where was Tom Hale?"},
                                    {"role": "assistant", "content": "Hale was near Elm Court."}]},
    ]  # fmt: skip
    raw = write(tmp_path / "rows.jsonl", rows)
    report = clean_files(raw, tmp_path / "out", settings={"pii_model": str(model)})
    lines = (tmp_path / "out" / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    kept = {row["id"]: row for row in map(json.loads, lines)}
    assert kept["prose"]["text"] == "Yesterday <NAME_1> met <NAME_2> near the river and was late."
    assert kept["code"]["text"] == code
    assert [m["content"] for m in kept["chat"]["messages"]] == [
        "Where was <NAME_1>?",
        "<NAME_1> was near <ADDRESS_1>.",
    ]
    assert report["masked"]["name"] == 4 and report["masked"]["address"] == 1
    counted = clean_files(raw, tmp_path / "counted", settings={"pii_model": str(model), "pii": "report"})
    assert counted["personal"] == report["personal"] and counted["masked"] == {}
    clean_files(raw, tmp_path / "two", settings={"pii_model": str(model)}, workers=2)
    assert (tmp_path / "two" / "rows.jsonl").read_bytes() == (tmp_path / "out" / "rows.jsonl").read_bytes()


def test_another_model_or_version_is_another_key(model, tmp_path, monkeypatch):
    import shutil

    copy = shutil.copytree(model, tmp_path / "model")
    write(tmp_path / "rows.jsonl", [{"text": "some row"}])
    settings = {"sources": [{"path": "rows.jsonl"}], "clean": {"pii_model": "model"}, "root": str(tmp_path)}
    before = fingerprint(settings)
    assert {"pii_model/config.json", "pii_model/model.safetensors"} <= {one["name"] for one in before}
    assert before[-1]["name"] == "pii_model packages" and all(one["sha256"] for one in before)
    monkeypatch.setattr("steelyard.data.steps.tagger.version", lambda name: "99.0")
    assert fingerprint(settings)[-1] != before[-1]
    (copy / "tokenizer.json").write_bytes((copy / "tokenizer.json").read_bytes() + b" ")
    assert fingerprint(settings) != before


def test_a_folder_that_is_no_such_model_is_refused_before_a_row_is_read(model, tmp_path):
    raw = write(tmp_path / "rows.jsonl", [{"text": "some row"}])
    with pytest.raises(WrongUse, match=r"has no config\.json"):
        clean_files(raw, tmp_path / "out", settings={"pii_model": str(tmp_path)})
    assert not (tmp_path / "out").exists()
    other = made(tmp_path / "other", {0: "ORG", 1: "DATE"})
    with pytest.raises(WrongUse, match="no label of other is a person or an address") as caught:
        clean_files(raw, tmp_path / "out", settings={"pii_model": str(other)})
    assert "ORG, DATE" in caught.value.why


def test_an_onnx_model_says_what_it_needs(model, tmp_path):
    if find_spec("onnxruntime"):
        pytest.skip("onnxruntime is installed")
    onnx_folder(model, tmp_path).joinpath("model.onnx").write_bytes(b"no model")
    with pytest.raises(Lacking, match="needs onnxruntime"):
        tagger(str(tmp_path))


def test_an_onnx_model_finds_the_same(model, tmp_path):
    """The same embeddings as a graph of one look-up and one product."""
    onnx, _ = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    from safetensors.numpy import load_file

    tensors = load_file(model / "model.safetensors")
    words = tensors["bert.embeddings.word_embeddings.weight"]
    weights = {"words": words, "labels": tensors["classifier.weight"].T.copy()}
    nodes = [
        onnx.helper.make_node("Gather", ["words", "input_ids"], ["embedded"]),
        onnx.helper.make_node("MatMul", ["embedded", "labels"], ["logits"]),
    ]
    ids = onnx.helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, ["rows", "tokens"])
    shape = ["rows", "tokens", len(LABELS)]
    out = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, shape)
    given = [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = onnx.helper.make_graph(nodes, "names", [ids], [out], given)
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(made, str(onnx_folder(model, tmp_path) / "model.onnx"))
    text = "Yesterday Tom Hale met Lucia Brandt near Elm Court."
    assert tagged(tmp_path, text) == ["Yesterday <NAME_1> met <NAME_2> near <ADDRESS_1>."]
    assert tagged(model, text) == tagged(tmp_path, text)


def onnx_folder(model, folder):
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_bytes((model / name).read_bytes())
    return folder


@pytest.mark.parametrize(
    ("name", "label"),
    [("B-PER", Label("NAME", True)), ("I-PER", Label("NAME", False)), ("LOC", Label(None, False)),
     ("private_person", Label("NAME", False)), ("S-GIVENNAME", Label("NAME", True)),
     ("O", Label(None, False)), ("B-STREET", Label("ADDRESS", True)), ("B-address", Label("ADDRESS", True))],
)  # fmt: skip
def test_labels_by_their_name(name, label):
    assert label_of(name) == label


def test_who_is_the_same_person():
    assert persons(["Tom Hale", "Hale", "Mr Hale"]) == {
        n: "Tom Hale" for n in ("Tom Hale", "Hale", "Mr Hale")
    }
    two = persons(["Tom Hale", "Ana Hale", "Hale", "Tom"])
    assert two["Hale"] == "Hale" and two["Tom"] == "Tom Hale"
    assert persons(["Tom Hale", "hale"])["hale"] == "Tom Hale" and persons([]) == {}
