"""The scan of a model folder: what is safe stays safe, what would run is refused, nothing hangs it."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import struct
import sys
import tarfile
import zipfile
import zlib
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steelyard.errors import CheckFailed
from steelyard.trust import check_scanned, scan

sys.path.insert(0, str(Path(__file__).parent))

from model_files import (
    ADVISORIES,
    ARRAY,
    CHATML,
    GOOD,
    GOOD_FILES,
    RUNS,
    gguf,
    hdf5,
    keras,
    npy,
    older_torch,
    onnx,
    safetensors,
    saved_model,
    tarred,
    tensor,
    torch_pickle,
    torch_zip,
    zipped,
)


def verdicts(folder: Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {f.path: (f.verdict, f.reasons) for f in scan(folder)}


def verdict(folder: Path, name: str, content: bytes) -> tuple[str, str]:
    (folder / name).write_bytes(content)
    ((_, (word, reasons)),) = verdicts(folder).items()
    return word, "; ".join(reasons)


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


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "value",
    [{"a": [1, 2.5, None, "os.system"], "b": (True, b"x")}, {1, 2}, OrderedDict(a=1), Counter("abc"), 1 << 90,
     ARRAY,
     {"w": ARRAY.astype("f8"), "n": np.float32(2)}, np.array(["a", {"b": 1}], dtype=object), complex(1, 2),
     ["x" * 300, b"y" * 70_000]],
    ids=lambda v: type(v).__name__,
)  # fmt: skip
def test_pickles_of_plain_values_and_arrays_are_safe(tmp_path, value, protocol):
    assert verdict(tmp_path, "v.pkl", pickle.dumps(value, protocol)) == ("safe", "")


@pytest.mark.parametrize(("name", "content"), GOOD_FILES.values(), ids=GOOD_FILES)
def test_good_files_are_safe(tmp_path, name, content):
    assert verdict(tmp_path, name, content) == ("safe", "")


BAD_FILES = [
    ("w.pt", b"anything", "pickle_"),
    ("m.pkl", RUNS, "pickle_global steelyard_no_such.name"),
    ("weights.dat", b"csteelyard_no_such\nname\n(tR.", "pickle_global steelyard_no_such.name"),
    ("notes.txt", pickle.dumps([1, 2]), "disguised"),
    ("old.pkl", pickle.dumps([1]) + RUNS, "pickle_global"),
    ("tail.pkl", pickle.dumps([1]) + b"\0\0", "pickle_opcode"),
    ("cut.pkl", pickle.dumps([1, 2, "abc"])[:-2], "pickle_"),
    ("e.pkl", b"\x80\x02\x82\x01.", "pickle_extension"),
    ("p.pkl", b"\x80\x02X\x01\0\0\0aQ.", "pickle_persistent_id"),
    ("p9.pkl", b"\x80\x09N.", "pickle_protocol"),
    ("memo.pkl", b"\x80\x02Nr\xff\xff\xff\x7f.", "pickle_memo"),
    ("dotted.pkl", b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93.", "pickle_global numpy.dtype.__init__"),
    ("computed.pkl", b"\x80\x04\x8c\x08builtinsccollections\nOrderedDict\n)R\x93.", "pickle_computed_name"),
    ("target.pkl", b"\x80\x02ccollections\nOrderedDict\nK\x01K\x02s.", "pickle_target"),
    ("build.pkl", b"\x80\x02cnumpy\ndtype\n}X\x05\0\0\0shapeK\x01sb.", "pickle_build"),
    (
        "codec.pkl",
        b"\x80\x02c_codecs\nencode\nX\x01\0\0\0aX\x03\0\0\0zip\x86R.",
        "pickle_arguments _codecs.encode",
    ),
    (
        "bytes.pkl",
        b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
        "pickle_arguments builtins.bytearray",
    ),
    ("m.safetensors", RUNS, "pickle_global"),
    ("m.pt", torch_zip(RUNS), "pickle_global"),
    ("m.pt", torch_zip(hook=RUNS), "pickle_global"),
    ("m.pt", torch_zip(size=20), "torch_storage_size"),
    ("m.pt", torch_zip(torch_pickle(stride=4)), "pickle_arguments torch._utils._rebuild_tensor_v2"),
    ("m.pt", torch_zip(torch_pickle(b"torch\nload\n")), "pickle_global torch.load"),
    ("m.pth", older_torch(RUNS), "pickle_tail"),
    ("a.npy", npy(ARRAY)[:-1], "npy_size"),
    ("a.npy", npy(np.array([1], dtype=object)).split(b"\n")[0] + b"\n" + RUNS, "pickle_global"),
    ("m.joblib", zlib.compress(RUNS), "pickle_global"),
    ("m.pkl.gz", gzip.compress(RUNS), "pickle_global"),
    ("modeling.py", b"print(1)", "remote_code"),
    ("plain", b"\x7fELF\x02\x01", "remote_code"),
    ("lib.so", b"", "remote_code"),
    ("run", b"#!/bin/sh\n", "remote_code"),
    ("config.json", b'{"auto_map": {"AutoModel": "m.M"}}', "remote_code"),
    ("config.json", b'{"a": [{"auto_map": {"x": 1}}]}', "remote_code"),
    ("config.json", b"{", "json_broken"),
    ("modules.json", b'[{"type": "custom_st.Transformer"}]', "remote_code"),
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
    (
        "m.safetensors",
        safetensors({"a": tensor(0, 4, [1]) | {"x": [[[[[[]]]]]]}}, bytes(4)),
        "safetensors_header",
    ),
    ("m.safetensors", safetensors(b'{"a": 1, "a": 2}'), "safetensors_duplicate_key"),
    ("m.safetensors", safetensors(b"{}", length=2**62), "safetensors_header_size"),
    ("m.safetensors", b"short", "safetensors_header_size"),
    ("m.safetensors", safetensors(GOOD, bytes(20))[:30], "safetensors_header_size"),
    ("m.gguf", gguf()[:60], "gguf_cut"),
    ("m.gguf", gguf(count=2**60), "gguf_cut"),
    ("m.gguf", gguf(offset=2**40), "gguf_offset"),
    ("m.gguf", gguf(dimension=2**40), "gguf_offset"),
    ("m.gguf", gguf(kind=2), "gguf_dimensions"),
    ("m.gguf", gguf(size=96), "gguf_tail"),
    ("m.gguf", b"not one", "not_gguf"),
    ("m.gguf", gguf("{{ ''.__class__ }}"), "template_dunder"),
    ("chat_template.jinja", b"{{ messages['__class__'] }}", "template_dunder"),
    ("chat_template.jinja", b"{{ messages['_' ~ '_class_' ~ '_'] }}", "template_computed_name"),
    ("chat_template.jinja", b"{{ lipsum() }}", "template_name"),
    ("chat_template.jinja", b"{{ x | attr('y') }}", "template_attr_filter"),
    ("chat_template.jinja", b"{{ x | map('attr', 'y') }}", "template_attr_filter"),
    ("chat_template.jinja", b"{% include 'x' %}", "template_include"),
    (
        "tokenizer_config.json",
        json.dumps({"chat_template": [{"name": "t", "template": "{{ a.__init__ }}"}]}).encode(),
        "template_dunder",
    ),
    ("h.yaml", b"a: !!python/object/apply:steelyard_no_such.name []\n", "yaml_tag"),
    ("h.yaml", b"a: !new:steelyard_no_such.name {}\n", "yaml_tag"),
    ("m.onnx", onnx("a/../../b"), "onnx_path"),
    ("m.onnx", onnx("/etc/x"), "onnx_path"),
    ("m.onnx", onnx(operator=b"PyOp"), "onnx_python"),
    ("saved_model.pb", saved_model(b"WriteFile"), "tensorflow_operator WriteFile"),
    ("m.keras", keras(class_name="Lambda"), "keras_code"),
    ("m.keras", keras(module="os"), "keras_module"),
    ("m.keras", keras(class_name="function", module="keras.utils", config="get_file"), "keras_module"),
    ("a.xml", b'<!DOCTYPE x [<!ENTITY a "b">]>', "entities"),
    ("m.zip", zipped(("../x", b"")), "archive_path"),
    ("m.zip", zipped(("C:/x", b"")), "archive_path"),
    ("m.zip", b"PK\x03\x04" + zipped(("x", b"abc")), "archive_prefix"),
    ("m.zip", zipped(("x", b"abc")).replace(b"abc", b"abd"), "archive_crc"),
    ("m.zip", zipped(("x", b"abc")).replace(b"x", b"y", 1), "archive_header"),
    ("m.zip", zipped(("run.py", b"")), "remote_code"),
    ("m.zip", zipped(("x", b"abc")) + b"more", "archive_tail"),
    ("m.tar", tarred(("/x", b"", tarfile.REGTYPE, "")), "archive_path"),
    ("m.tar", tarred(("a/b", b"", tarfile.SYMTYPE, "../../x")), "archive_link"),
    ("m.tar", tarred(("a/b", b"", tarfile.LNKTYPE, "/x")), "archive_link"),
    ("m.tar", tarred(("a", b"", tarfile.CHRTYPE, "")), "archive_device"),
    ("m.tar", tarred(("a", b"x", tarfile.REGTYPE, "")) + RUNS, "archive_tail"),
    ("p.png", b"\x89PNG\r\n\x1a\n" + bytes(64) + zipped(("x", b"abc")), "polyglot"),
    ("config.json", zipped(("x", b"abc")), "disguised"),
]


@pytest.mark.parametrize(
    ("name", "content", "reason"), BAD_FILES, ids=lambda v: v if isinstance(v, str) else ""
)
def test_what_would_run_or_lies_is_unsafe(tmp_path, name, content, reason):
    word, why = verdict(tmp_path, name, content)
    assert word == "unsafe" and why.startswith(reason), why


# ------------------------------------------------------------------ after the advisories of 2026


@pytest.mark.parametrize(("name", "content"), ADVISORIES.values(), ids=ADVISORIES)
def test_kinds_of_the_advisories_are_unsafe(tmp_path, name, content):
    assert verdict(tmp_path, name, content)[0] == "unsafe"


def test_an_h5_whose_data_lie_in_other_files_is_unsafe(tmp_path):
    """CVE-2026-1669: external storage reads any file of the user's into a weight."""
    assert verdict(tmp_path, "m.h5", hdf5(1, bytes(8))) == ("safe", "")
    assert verdict(tmp_path, "m.h5", hdf5(7, bytes(16))) == ("unsafe", "h5_external")
    link = bytes([1, 8, 64, 1]) + b"x" + struct.pack("<H", 2) + b"\0f"
    assert verdict(tmp_path, "m.h5", hdf5(6, link)) == ("unsafe", "h5_external")
    beyond = bytes([1, 3]) + struct.pack("<Q", (1 << 63) - 1) + bytes(6)  # a name longer than any file
    assert verdict(tmp_path, "m.h5", hdf5(6, beyond)) == ("unsafe", "h5_cut")


# ------------------------------------------------------------------ bounded


def test_bombs_are_named_and_bounded(tmp_path):
    bomb = zipped(("x.bin", bytes(80 << 20)), method=zipfile.ZIP_DEFLATED)
    assert verdict(tmp_path, "m.zip", bomb) == ("unsafe", "archive_ratio")
    assert verdict(tmp_path, "m.zip", zipped(("inner.zip", bomb))) == ("unsafe", "archive_ratio")


def test_an_archive_in_an_archive_is_walked_four_deep(tmp_path):
    nested = RUNS
    for depth in range(4):
        nested = zipped(("m.pkl" if depth == 0 else "m.zip", nested))
    assert verdict(tmp_path, "m.zip", nested)[0] == "unsafe"
    assert verdict(tmp_path, "m.zip", zipped(("m.zip", nested))) == ("unknown", "nesting")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}", "template_loop"),
        (
            "{% for a in 'xxxxxxxxxx' * 1000 %}{% for b in range(9999) %}x{% endfor %}{% endfor %}",
            "template_loop",
        ),
        ("{% set l = [1] %}{% for a in l %}{% set _ = l.append(a) %}{% endfor %}", "template_loop"),
        ("{{ 'x' * 999999999 }}", "template_size"),
        ("{{ 9 ** 9 ** 9 ** 9 }}", "template_size"),
    ],
)
def test_a_template_that_loops_is_unsafe(tmp_path, template, reason):
    assert verdict(tmp_path, "chat_template.jinja", template.encode()) == ("unsafe", reason)


def test_what_cannot_be_judged_is_unknown(tmp_path):
    assert verdict(tmp_path, "m", b"7z\xbc\xaf\x27\x1c" + bytes(30)) == ("unknown", "archive_7z")
    (tmp_path / "m").unlink()
    assert verdict(tmp_path, "m.tflite", b"anything") == ("unknown", "no_rule")
    (tmp_path / "m.tflite").unlink()
    assert verdict(tmp_path, "m.onnx", onnx(domain=b"some.body")) == ("unknown", "onnx_operator")


HEADS = [b"", b"\x80\x02", b"\x80\x04\x95", b"PK\x03\x04", b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\0",
         b"GGUF\3\0\0\0", b"\x89HDF\r\n\x1a\n", b"\x93NUMPY\1\0", b"\x78\x9c", b"c", b"(", b"{"]  # fmt: skip
NAMES = ["m.pkl", "m.bin", "m.safetensors", "m.gguf", "m.npy", "m.onnx", "m.pb", "m.h5", "m.keras", "m.json",
         "m.yaml", "m.jinja", "m.tar", "m.zip", "m"]  # fmt: skip
SEEDS = [content for _, content, _ in BAD_FILES] + [content for _, content in GOOD_FILES.values()]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(HEADS), st.binary(max_size=400), st.sampled_from(NAMES))
def test_no_bytes_crash_it(tmp_path, head, rest, name):
    assert verdict(tmp_path, name, head + rest)[0] in ("safe", "unsafe", "unknown")
    (tmp_path / name).unlink()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(SEEDS), st.data(), st.sampled_from(NAMES))
def test_no_changed_file_crashes_it(tmp_path, seed, data, name):
    changed = bytearray(seed)
    for _ in range(data.draw(st.integers(0, 4)) if changed else 0):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(changed)))
    assert verdict(tmp_path, name, bytes(changed[:cut]))[0] in ("safe", "unsafe", "unknown")
    (tmp_path / name).unlink()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
                    lambda s: st.lists(s) | st.dictionaries(st.text(), s) | st.tuples(s, s), max_leaves=20),
       st.integers(0, 5))  # fmt: skip
def test_any_plain_value_pickles_to_a_safe_file(tmp_path, value, protocol):
    assert verdict(tmp_path, "v.pkl", pickle.dumps(value, protocol)) == ("safe", "")


# ------------------------------------------------------------------ links, and before a load


def test_links_are_judged_by_where_they_lead(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "outside").write_text("x")
    (folder / "a.txt").write_text("x")
    (folder / "in.txt").symlink_to("a.txt")
    (folder / "out.txt").symlink_to("../outside")
    (folder / "ring").symlink_to("ring")
    judged = verdicts(folder)
    assert judged.pop("ring")[0] != "safe"
    assert judged == {
        "a.txt": ("safe", ()),
        "in.txt": ("safe", ()),
        "out.txt": ("unsafe", ("link_outside",)),
    }


def test_a_load_is_refused_and_a_verdict_is_looked_up_until_a_file_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("STEELYARD_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "a.pkl").write_bytes(pickle.dumps([1]))
    (folder / ".git").mkdir()
    (folder / ".git" / "hook").write_bytes(b"#!/bin/sh\n")
    check_scanned(folder)
    assert len(list((tmp_path / "cache/scans").iterdir())) == 1
    folder.rename(tmp_path / "n")
    check_scanned(tmp_path / "n")
    assert len(list((tmp_path / "cache/scans").iterdir())) == 1
    (tmp_path / "n/a.pkl").write_bytes(RUNS)
    for _ in range(2):
        with pytest.raises(CheckFailed, match=r"a.pkl is unsafe: pickle_global") as refused:
            check_scanned(tmp_path / "n")
    assert refused.value.code == "scan.unsafe" and refused.value.exit_code == 4


def test_of_a_large_torch_zip_the_tensors_beyond_the_limit_are_not_read(tmp_path, monkeypatch):
    """Their place, header and length are looked at all the same, and so is every entry that is no tensor."""
    monkeypatch.setattr("steelyard.trust.scanning.limits.STORAGE_BYTES_READ", 20)  # the tensor has 24
    good = torch_zip(**{"m/other": b"words"})
    cases = {
        "tensor": (good.replace(bytes(24), b"\1" * 24, 1), []),
        "other": (good.replace(b"words", b"swords"[1:][::-1], 1), ["archive_crc"]),
        "shorter": (torch_zip(size=20), ["torch_storage_size"]),
        "pickle": (torch_zip(torch_pickle().replace(b"_rebuild", b"_rebuilt")), None),
        "hidden": (torch_zip(**{"m/data/1": RUNS}), None),
    }
    for name, (content, _) in cases.items():
        (tmp_path / f"{name}.pt").write_bytes(content)
    found = {Path(f.path).stem: f for f in scan(tmp_path)}
    for name, (_, reasons) in cases.items():
        assert found[name].verdict == ("safe" if reasons == [] else "unsafe"), (name, found[name].reasons)
        assert reasons is None or list(found[name].reasons) == reasons
    monkeypatch.undo()
    assert [f.reasons for f in scan(tmp_path / "tensor.pt")] == [("archive_crc",)]
