"""The scan of a model folder: what is safe stays safe, what would run is refused."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest

from steelyard.trust import scan

CHATML = (
    "{%- for m in messages %}{{- '<|im_start|>' + m['role'] + '\\n' + m['content'] | trim }}{%- endfor %}"
    "{%- if add_generation_prompt %}{% generation %}x{% endgeneration %}{%- endif %}"
)


def safetensors(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(start, end, shape, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


GOOD = {"__metadata__": {"format": "pt"}, "a": tensor(0, 16, [4]), "b": tensor(16, 20, [2], "BF16")}


def gguf(template=CHATML, offset=0, count=1):
    def text(s):
        return struct.pack("<Q", len(s.encode())) + s.encode()

    pairs = text("general.architecture") + struct.pack("<I", 8) + text("llama")
    pairs += text("tokenizer.chat_template") + struct.pack("<I", 8) + text(template)
    out = b"GGUF" + struct.pack("<IQQ", 3, count, 2) + pairs
    out += text("w") + struct.pack("<IQ", 1, 8) + struct.pack("<IQ", 0, offset)
    return out + b"\0" * 64


def torch_file(path):
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("archive/data.pkl", pickle.dumps([1]))
    return path.read_bytes()


def verdicts(folder: Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {f.path: (f.verdict, f.reasons) for f in scan(folder)}


def test_a_clean_model_folder_is_safe(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model.safetensors").write_bytes(safetensors(GOOD, bytes(20)))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHATML}))
    (tmp_path / "chat_template.jinja").write_text(CHATML)
    (tmp_path / "README.md").write_text("never use __import__('os') or pickle")
    (tmp_path / "openvino_model.bin").write_bytes(os.urandom(64).replace(b"\x80", b"a"))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "m.gguf").write_bytes(gguf())
    assert set(verdicts(tmp_path).values()) == {("safe", ())}
    assert len(scan(tmp_path)) == 7


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("w.pt", b"anything", "pickle"),
        ("model.bin", pickle.dumps({"a": 1}), "pickle"),
        ("weights.dat", pickle.dumps([1], protocol=4), "pickle"),
        ("old.bin", pickle.dumps([1, 2], protocol=0), "pickle"),
        ("modeling.py", b"print(1)", "remote_code"),
        ("plain", b"\x7fELF\x02\x01", "remote_code"),
        ("lib.so", b"", "remote_code"),
        ("config.json", b'{"auto_map": {"AutoModel": "m.M"}}', "remote_code"),
        ("config.json", b'{"a": [{"auto_map": {}}]}', "remote_code"),
        ("config.json", b"{", "json_broken"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "../../x"}}', "index_path"),
        ("m.safetensors", safetensors(GOOD, bytes(19)), "safetensors_cut"),
        ("m.safetensors", safetensors(GOOD, bytes(21)), "safetensors_tail"),
        ("m.safetensors", safetensors({"a": tensor(4, 8, [1])}, bytes(8)), "safetensors_hole"),
        (
            "m.safetensors",
            safetensors({"a": tensor(0, 8, [2]), "b": tensor(4, 8, [1])}, bytes(8)),
            "safetensors_overlap",
        ),
        ("m.safetensors", safetensors({"a": tensor(0, 8, [3])}, bytes(8)), "safetensors_span"),
        ("m.safetensors", safetensors({"a": tensor(0, 8, [-2])}, bytes(8)), "safetensors_span"),
        ("m.safetensors", safetensors({"a": 1}), "safetensors_header"),
        ("m.safetensors", safetensors(b'{"a": 1, "a": 2}'), "safetensors_duplicate_key"),
        ("m.safetensors", safetensors(b"{}", length=2**62), "safetensors_header_size"),
        ("m.safetensors", b"short", "safetensors_header_size"),
        ("m.gguf", gguf()[:60], "gguf_cut"),
        ("m.gguf", gguf(count=2**60), "gguf_cut"),
        ("m.gguf", gguf(offset=2**40), "gguf_offset"),
        ("m.gguf", b"not one", "not_gguf"),
        ("m.gguf", gguf("{{ ''.__class__ }}"), "template_dunder"),
        ("chat_template.jinja", b"{{ messages['__class__'] }}", "template_dunder"),
        ("chat_template.jinja", b"{{ lipsum() }}", "template_name"),
        ("chat_template.jinja", b"{{ x | attr('y') }}", "template_attr_filter"),
        ("chat_template.jinja", b"{% include 'x' %}", "template_include"),
        (
            "tokenizer_config.json",
            json.dumps({"chat_template": [{"name": "t", "template": "{{ a.__init__ }}"}]}).encode(),
            "template_dunder",
        ),
    ],
)
def test_what_would_run_or_lies_is_unsafe(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    assert verdicts(tmp_path) == {name: ("unsafe", (reason,))}


def test_a_torch_zip_is_a_pickle_and_other_archives_are_unknown(tmp_path):
    (tmp_path / "weights").write_bytes(torch_file(tmp_path / "t.zip"))
    (tmp_path / "notes.gz").write_bytes(b"\x1f\x8b\x08rest")
    found = verdicts(tmp_path)
    assert found["weights"] == found["t.zip"] == ("unsafe", ("pickle",))
    assert found["notes.gz"][0] == "unknown"


def test_links_are_judged_by_where_they_lead(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "outside").write_text("x")
    (folder / "a.txt").write_text("x")
    (folder / "in.txt").symlink_to("a.txt")
    (folder / "out.txt").symlink_to("../outside")
    assert verdicts(folder) == {
        "a.txt": ("safe", ()),
        "in.txt": ("safe", ()),
        "out.txt": ("unsafe", ("link_outside",)),
    }
