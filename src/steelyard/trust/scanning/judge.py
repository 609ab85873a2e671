"""One file's verdict: its content decides first, then its name. What is nested shares the file's limits."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from . import archives
from .formats import hdf5, keras, protobuf, texts
from .formats.gguf import gguf_templates
from .formats.safetensors import check_safetensors
from .limits import NESTING_MAX, Bad, Limits, TooMuch
from .pickled import check_npy, check_pickle, check_torch_data, may_be_pickle
from .view import View, in_memory
from .zips import Entry, is_as_long_as_it_says, read_entries, unpack

TEXT_BYTES_MAX = 32 << 20  # a larger tokenizer.json takes more memory than a scan may
CODE = {".py", ".pyc", ".pyd", ".pyw", ".so", ".dll", ".dylib", ".exe", ".sh", ".bash", ".bat", ".cmd",
        ".ps1", ".jar", ".class", ".wasm", ".msi", ".com", ".vbs"}  # fmt: skip
PICKLES = {".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".dill", ".p", ".pk"}
UNRULED = {".tflite", ".msgpack", ".mlmodel", ".engine", ".plan", ".ort", ".pmml", ".pbtxt", ".tfrecord",
           ".rds", ".llamafile", ".nc", ".mlir"}  # fmt: skip
# Names that promise one format: another loader's content in them is there to deceive.
FIXED = {".safetensors", ".gguf", ".json", ".jsonl", ".jinja", ".jinja2", ".yaml", ".yml", ".txt", ".md",
         ".csv", ".tsv", ".xml", ".onnx", ".png", ".jpg", ".jpeg", ".gif", ".toml", ".html", ".svg",
         ".pb"}  # fmt: skip
MACH_O = (b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf", b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe",
          b"\xca\xfe\xba\xbe")  # fmt: skip
SEALED = b"SYSEAL1"  # steelyard's own
ZIP_HEADS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
LICENCE_NAMES = re.compile(r"(licen[cs]e|notice|readme|\.gitattributes|\.gitignore)", re.IGNORECASE)

Judge = Callable[["File"], None]


class File:
    """What is judged: a view, its name, and how deep it lies in archives."""

    def __init__(self, view: View, name: str, limits: Limits, depth: int = 0) -> None:
        self.view, self.name, self.limits, self.depth = view, name, limits, depth
        self.head = view.read_at(0, 4096)
        self.suffix = PurePosixPath(name).suffix.lower()

    def inner(self, view: View, name: str) -> File:
        """A part of it. Raises TooMuch where that lies too deep."""
        if self.depth + 1 > NESTING_MAX:
            raise TooMuch("nesting")
        self.limits.check_time()
        return File(view, name, self.limits, self.depth + 1)


def judge(file: File) -> None:
    """Returns where nothing speaks against it. Raises Bad (unsafe), TooMuch (unknown)."""
    if file.suffix in CODE or is_executable(file):
        raise Bad("remote_code")
    for fits, check in BY_CONTENT:
        if fits(file):
            if file.suffix in FIXED and check not in NEVER_DISGUISED:
                raise Bad("disguised")
            return check(file)
    by_name = BY_NAME.get(PurePosixPath(file.name).name) or BY_SUFFIX.get(file.suffix)
    if by_name:
        by_name(file)
        return check_end(file)
    if file.suffix in UNRULED or file.head[4:8] == b"TFL3":
        raise TooMuch("no_rule")
    check_raw(file)
    return None


def is_executable(file: File) -> bool:
    head = file.head
    if head.startswith((b"\x7fELF", *MACH_O)):
        return True
    if head.startswith(b"MZ"):
        at = int.from_bytes(head[60:64], "little")
        return file.view.read_at(at, 4) == b"PE\0\0" or head.startswith(b"MZqFpD")
    return re.match(rb"#!\s*/", head) is not None


# ------------------------------------------------------------------ by content


def check_zip(file: File) -> None:
    entries = read_entries(file.view, file.limits)
    pickles = [e for e in entries if PurePosixPath(e.name).name == "data.pkl"]
    storages = {name for pickle in pickles for name in _torch_storages(file, pickle, entries)}
    judged = storages | {pickle.name for pickle in pickles}
    for entry in entries:
        if (
            entry.name in storages
            and is_as_long_as_it_says(entry)
            and not file.limits.reads_storage(entry.size)
        ):
            continue
        content = unpack(entry, file.limits)
        if entry.name not in judged and not entry.name.endswith("/"):
            judge(file.inner(content, entry.name))


def _torch_storages(file: File, data: Entry, entries: list[Entry]) -> set[str]:
    """Names of the entries that are the tensors' bytes, each as long as the pickle says. Raises Bad."""
    folder = data.name[: -len("data.pkl")]
    storages = check_torch_data(unpack(data, file.limits), file.limits)
    sizes = {e.name: e.size for e in entries}
    names = {f"{folder}data/{key}": s.count * s.element_bytes for key, s in storages.by_key.items()}
    for name, size in names.items():
        if sizes.get(name) != size:
            raise Bad("torch_storage_size")
    return set(names)


def check_stream(file: File) -> None:
    make = archives.stream_of(file.head)
    assert make is not None
    content = in_memory(archives.unpack_stream(file.view, make, file.limits))
    judge(file.inner(content, unpacked_name(file.name)))


def unpacked_name(name: str) -> str:
    for suffix, rest in ((".tgz", ".tar"), (".tbz2", ".tar"), (".txz", ".tar")):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)] + rest
    stripped = re.sub(r"\.(gz|bz2|xz|z|zlib|lzma)$", "", name, flags=re.IGNORECASE)
    return stripped


def check_zlib(file: File) -> None:
    """Raw data may begin so by chance: where the stream breaks off, a name that promises no pickle is raw."""
    try:
        content = in_memory(archives.unpack_zlib(file.view, file.limits))
    except Bad as e:
        if str(e) == "archive_ratio" or file.suffix in PICKLES:
            raise
        return check_raw(file)
    return judge(file.inner(content, unpacked_name(file.name)))


def check_tar(file: File) -> None:
    for name, content in archives.read_tar(file.view, file.limits):
        judge(file.inner(content, name))


def check_gguf(file: File) -> None:
    for template in gguf_templates(file.view, file.limits):
        texts.check_template(template)
    check_end(file)


def check_h5(file: File) -> None:
    """Keras' JSON stands in an attribute; other attributes are words."""
    for text in hdf5.attribute_texts(file.view, file.limits):
        if b'"class_name"' in text:
            keras.check_model(parsed(text.rstrip(b"\0")))
    check_end(file)


def parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise Bad("json_broken") from e


def no_rule(file: File) -> None:
    raise TooMuch(next(why for sign, why in archives.NO_RULE.items() if file.head.startswith(sign)))


def encrypted(file: File) -> None:
    raise TooMuch("encrypted")


def is_pickle(file: File) -> bool:
    """By its first opcode and a protocol that exists."""
    return re.match(rb"\x80[\x00-\x05]", file.head) is not None


def check_maybe_pickle(file: File) -> None:
    """Raw data may begin so by chance: names that promise a pickle must be one, others only may."""
    if file.suffix in PICKLES:
        check_pickle(file.view, file.limits)
    elif file.suffix in FIXED:
        if may_be_pickle(file.view, file.limits):
            raise Bad("disguised")
        if by_name := BY_SUFFIX.get(file.suffix):
            by_name(file)
    elif _is_older_torch(file):
        check_pickle(file.view, file.limits)
    else:
        may_be_pickle(file.view, file.limits)
        check_end(file)


def _is_older_torch(file: File) -> bool:
    return b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19" in file.head[:16]


# ------------------------------------------------------------------ by name


def of_text(check: Callable[[str], None]) -> Judge:
    return lambda file: check(read_text(file))


def read_text(file: File) -> str:
    """Raises Bad where it is no text, TooMuch where it is long."""
    if file.view.size > TEXT_BYTES_MAX:
        raise TooMuch("too_large")
    try:
        return file.view.whole().decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise Bad("not_text") from e


def check_named_pickle(file: File) -> None:
    check_pickle(file.view, file.limits)


def check_safetensors_file(file: File) -> None:
    """The metadata too may hold JSON that is instantiated (CVE-2025-23304)."""
    for text in check_safetensors(file.view).values():
        if "_target_" in text or "auto_map" in text:
            try:
                document = json.loads(text)
            except (ValueError, RecursionError):
                continue
            texts.check_document(document)


def wrong(reason: str) -> Judge:
    def check(file: File) -> None:
        raise Bad(reason)

    return check


def check_keras_name(file: File) -> None:
    raise TooMuch("no_rule")  # neither zip nor HDF5


# ------------------------------------------------------------------ the rest


def check_raw(file: File) -> None:
    """No container by its head: is it a pickle without one, or does a zip hang on its end?"""
    if file.view.size > 1 and not LICENCE_NAMES.search(file.name) and may_be_pickle(file.view, file.limits):
        return
    check_end(file)


def check_end(file: File) -> None:
    """A zip is read from its end: behind other content it is meant for another reader."""
    tail = file.view.read_at(max(0, file.view.size - 65558), 65558)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < 22:
        return
    entries = int.from_bytes(tail[at + 10 : at + 12], "little")
    directory = int.from_bytes(tail[at + 12 : at + 16], "little")
    place = file.view.size - len(tail) + at - directory
    if entries and file.view.read_at(place, 4) == b"PK\x01\x02":
        raise Bad("polyglot")


BY_CONTENT: list[tuple[Callable[[File], bool], Judge]] = [
    (lambda f: f.head.startswith(SEALED), encrypted),
    (lambda f: f.head.startswith(ZIP_HEADS), check_zip),
    (lambda f: archives.stream_of(f.head) is not None, check_stream),
    (lambda f: f.head.startswith(tuple(archives.NO_RULE)), no_rule),
    (lambda f: f.head[257:262] == b"ustar", check_tar),
    (lambda f: f.head.startswith(b"\x93NUMPY"), lambda f: check_npy(f.view, f.limits)),
    (lambda f: f.head.startswith(b"GGUF"), check_gguf),
    (lambda f: f.head.startswith(hdf5.SIGN), check_h5),
    (is_pickle, check_maybe_pickle),
    (lambda f: archives.is_zlib(f.view), check_zlib),
]
# A GGUF has one of the fixed names; a pickle or a zlib stream may be chance, and they look themselves.
NEVER_DISGUISED = {check_gguf, check_maybe_pickle, check_zlib, encrypted}
BY_SUFFIX: dict[str, Judge] = {
    ".safetensors": check_safetensors_file,
    ".gguf": wrong("not_gguf"),
    ".npy": wrong("not_npy"),
    ".npz": wrong("not_zip"),
    ".zip": wrong("not_zip"),
    ".tar": check_tar,
    ".h5": check_keras_name,
    ".hdf5": check_keras_name,
    ".keras": check_keras_name,
    ".json": of_text(texts.check_json),
    ".jsonl": lambda file: None,  # rows of data: nothing loads them by name
    ".jinja": of_text(texts.check_template),
    ".jinja2": of_text(texts.check_template),
    ".xml": of_text(texts.check_xml),
    ".yaml": lambda file: texts.check_yaml(read_text(file), file.limits),
    ".yml": lambda file: texts.check_yaml(read_text(file), file.limits),
    ".onnx": lambda file: protobuf.check_onnx(file.view, file.limits),
    ".pb": lambda file: protobuf.check_tensorflow(file.view, file.limits),
    **dict.fromkeys(PICKLES, check_named_pickle),
}
BY_NAME: dict[str, Judge] = {"MLmodel": BY_SUFFIX[".yaml"], "modules.json": of_text(texts.check_modules)}
