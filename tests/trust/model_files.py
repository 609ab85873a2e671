"""Model files that tests/trust and bench/modelscan.py judge: good ones of many formats, and kinds that
advisories of 2025 and 2026 describe. Bytes put together by hand: no payload works, nothing here loads one."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import struct
import tarfile
import zipfile
import zlib

import numpy as np

CHATML = (
    "{%- for m in messages %}{{- '<|im_start|>' + m['role'] + '\\n' + m['content'] | trim }}{%- endfor %}"
    "{%- if add_generation_prompt %}{% generation %}x{% endgeneration %}{%- endif %}"
)
# Names that are refused by being named: none of them would do harm here, and nothing here loads them.
HARMLESS = b"csteelyard_no_such\nname\n"
RUNS = b"\x80\x02" + HARMLESS + b")R."


def safetensors(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(start, end, shape, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


GOOD = {"__metadata__": {"format": "pt"}, "a": tensor(0, 16, [4]), "b": tensor(16, 20, [2], "BF16")}


def gguf(template=CHATML, offset=0, count=1, size=64, kind=0, dimension=8):
    def text(s):
        return struct.pack("<Q", len(s.encode())) + s.encode()

    pairs = text("general.architecture") + struct.pack("<I", 8) + text("llama")
    pairs += text("tokenizer.chat_template") + struct.pack("<I", 8) + text(template)
    out = b"GGUF" + struct.pack("<IQQ", 3, count, 2) + pairs
    out += text("w") + struct.pack("<IQ", 1, dimension) + struct.pack("<IQ", kind, offset)
    return out + b"\0" * (-len(out) % 32) + b"\0" * size


def zipped(*entries, method=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as z:
        for name, data in entries:
            z.writestr(name, data)
    return out.getvalue()


def tarred(*members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as t:
        for name, data, kind, link in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, len(data)
            t.addfile(info, io.BytesIO(data))
    return out.getvalue()


def torch_pickle(global_name=b"torch\nFloatStorage\n", count=6, stride=3, key=b"0"):
    """What torch.save writes for one tensor of 2 x 3."""
    pid = (
        b"(X\x07\0\0\0storagec"
        + global_name
        + b"X\x01\0\0\0"
        + key
        + b"X\x03\0\0\0cpuK"
        + bytes([count])
        + b"tQ"
    )
    body = b"K\0(K\x02K\x03t(K" + bytes([stride]) + b"K\x01t\x89ccollections\nOrderedDict\n)RtR"
    return b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n(" + pid + body + b"s."


def torch_zip(data=None, size=24, **more):
    return zipped(
        ("m/data.pkl", data or torch_pickle()),
        ("m/data/0", bytes(size)),
        ("m/version", b"3\n"),
        *more.items(),
    )


def older_torch(tail=b""):
    head = (
        pickle.dumps(0x1950A86A20F9469CFC6C, 2)
        + pickle.dumps(1001, 2)
        + pickle.dumps({"little_endian": True}, 2)
    )
    keys = pickle.dumps(["0"], 2)
    return (
        head
        + torch_pickle().replace(b"K\x06tQ", b"K\x06NtQ")
        + keys
        + struct.pack("<q", 6)
        + bytes(24)
        + tail
    )


def npy(array):
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def pb(number, content):
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def onnx(location="weights.bin", operator=b"Identity", domain=b""):
    outside = pb(13, pb(1, b"location") + pb(2, location.encode()))
    node = pb(1, b"w") + pb(4, operator) + pb(7, domain)
    return pb(1, 8) + pb(7, pb(1, node) + pb(5, pb(1, 4) + outside))


def saved_model(operator):
    return pb(1, 1) + pb(2, pb(2, pb(1, pb(1, b"n") + pb(2, operator))))


def keras(**layer):
    layers = [
        {"module": "keras.layers", "class_name": "Dense", "config": {}, "registered_name": None} | layer
    ]
    config = {
        "class_name": "Sequential",
        "module": "keras",
        "config": {"layers": layers},
        "registered_name": None,
    }
    return zipped(("config.json", json.dumps(config)), ("metadata.json", "{}"))


ARRAY = np.arange(6, dtype="f4").reshape(2, 3)


def hdf5(message_kind, message):
    """A root group with one object, whose header has one message of that kind."""
    root, tree, leaf, thing = 96, 136, 176, 256
    head = b"\x89HDF\r\n\x1a\n" + bytes([0, 0, 0, 0, 0, 8, 8, 0]) + struct.pack("<HHI", 4, 16, 0)
    head += struct.pack("<QQQQ", 0, 2**64 - 1, 4096, 2**64 - 1) + struct.pack(
        "<QQIIQQ", 0, root, 1, 0, tree, 0
    )

    def header(kind, data):
        data += bytes(-len(data) % 8)
        return (
            struct.pack("<BBHIII", 1, 0, 1, 1, 8 + len(data), 0)
            + struct.pack("<HHI", kind, len(data), 0)
            + data
        )

    body = head.ljust(root, b"\0") + header(17, struct.pack("<QQ", tree, 0))
    body += b"TREE" + struct.pack("<BBHQQ", 0, 0, 1, 2**64 - 1, 2**64 - 1) + struct.pack("<QQ", 0, leaf)
    body = (
        body.ljust(leaf, b"\0")
        + b"SNOD"
        + struct.pack("<BBH", 1, 0, 1)
        + struct.pack("<QQIIQQ", 0, thing, 0, 0, 0, 0)
    )
    return (body.ljust(thing, b"\0") + header(message_kind, message)).ljust(4096, b"\0")


GOOD_FILES = {
    "torch zip": ("pytorch_model.bin", torch_zip()),
    "torch zip, its own name": ("m.pt", torch_zip()),
    "older torch": ("m.pth", older_torch()),
    "npy": ("a.npy", npy(ARRAY)),
    "npy of records": ("a.npy", npy(np.zeros(3, dtype=[("x", "f4"), ("y", "i2", (2,))]))),
    "npy of objects": ("a.npy", npy(np.array([1, "a"], dtype=object))),
    "npz": ("a.npz", zipped(("x.npy", npy(ARRAY)), method=zipfile.ZIP_DEFLATED)),
    "joblib, zlib": ("m.joblib", zlib.compress(pickle.dumps([1, 2]))),
    "pickle in gz": ("m.pkl.gz", gzip.compress(pickle.dumps({"a": 1}))),
    "pickle in bz2": ("m.pkl.bz2", bz2.compress(pickle.dumps({"a": 1}))),
    "pickle in xz": ("m.pkl.xz", lzma.compress(pickle.dumps({"a": 1}))),
    "onnx": ("m.onnx", onnx()),
    "onnx of onnxruntime": ("m.onnx", onnx(domain=b"com.microsoft")),
    "savedmodel": ("saved_model.pb", saved_model(b"MatMul")),
    "keras": ("m.keras", keras()),
    "yaml": ("conf.yaml", b"a: &x [1, 2]\nb: *x\n"),
    "mlflow": ("MLmodel", b"flavors: {python_function: {loader_module: mlflow.sklearn}}\n"),
    "tar": (
        "m.tar", tarred(("m/c.json", b"{}", tarfile.REGTYPE, ""), ("m/l", b"", tarfile.SYMTYPE, "c.json"))),
    "word list": ("vocab.txt", b"cat\ndog\nNone\n(lists\nRun\n"),
    "merges": ("merges.txt", "#version: 0.2\nĠ t\nc\nos\nsystem\n".encode()),
    "raw that begins as a pickle": ("w.bin", b"\x80\x02" + bytes(range(7, 255))),
    "raw that begins as zlib": ("w.bin", b"\x78\x9c" + bytes(300)),
    "raw whose end names a place before its beginning": (
        "w.bin", b"raw" * 9 + b"PK\x05\x06" + bytes(6) + b"\1\0\xff\xff\xff\0" + bytes(6)),
    "raw that begins MZ": ("w.bin", b"MZ" + bytes(300)),
    "hydra": ("c.yaml", b"_target_: torch.nn.Linear\n"),
    "an empty file": ("empty", b""),
    "sentence-transformers": ("modules.json", b'[{"type": "sentence_transformers.models.Pooling"}]'),
    "attention by a word": ("config.json", b'{"_attn_implementation": "sdpa"}'),
}  # fmt: skip


ADVISORIES = {
    "CVE-2026-56315 a module that starts processes": ("m.pkl", b"\x80\x02cuuid\n_get_command_stdout\n)R."),
    "CVE-2026-56304 a log that makes a file": ("m.pkl", b"\x80\x02clogging\nFileHandler\n)R."),
    "GHSA of pkgutil: any name from a text": ("m.pkl", b"\x80\x02cpkgutil\nresolve_name\n)R."),
    "CVE-2026-22608 pydoc finds and makes objects": ("m.pkl", b"\x80\x02cpydoc\nlocate\n)R."),
    "a call whose result is dropped": ("m.pkl", b"\x80\x02csteelyard_no_such\nname\n)R0N."),
    "a state put into a module's function": ("m.pkl", b"\x80\x04\x8c\x05numpy\x8c\x0c__builtins__\x93."),
    "CVE-2026-24747 items set on what is no dict": ("m.pt", torch_zip(b"\x80\x02]K\0K\x01s.")),
    "CVE-2026-24747 a view beyond its storage": ("m.pt", torch_zip(torch_pickle(stride=200))),
    "CVE-2026-1462 a layer that loads a SavedModel": ("m.keras", keras(class_name="TFSMLayer")),
    "CVE-2026-1669 weights that lie in a file of the user's": ("m.h5", hdf5(7, bytes(16))),
    "CVE-2025-12058 a vocabulary from a file": (
        "m.keras", keras(class_name="StringLookup", config={"vocabulary": "/x"})),
    "CVE-2025-9906 a model that switches safe mode off": (
        "m.keras", keras(class_name="function", module="keras.config", config="unsafe")),
    "CVE-2026-4372 attention from a repository": ("config.json", b'{"_attn_implementation_internal": "o/r"}'),
    "CVE-2026-27489 a path that returns to climb": ("m.onnx", onnx("junk/../../x")),
    "CVE-2026-5760 a template of a reranker": ("m.gguf", gguf("{{ cycler.next }}")),
    "CVE-2025-23304 a name that hydra calls": ("config.yaml", b"a: {_target_: steelyard_no_such.name}\n"),
    "the same in a header's metadata": (
        "m.safetensors", safetensors({"__metadata__": {"c": '{"_target_": "steelyard_no_such.name"}'}})),
}  # fmt: skip
