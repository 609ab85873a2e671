"""What a model folder holds, judged before anything of it is loaded: safe, unsafe or unknown.

Content decides first, then the name. Nothing is imported, unpacked, rendered or run.
Thin: every pickle is unsafe, every other archive unknown; the opcode walk and the archive rules of the
trust design come later, in this file's place.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .headers import Bad, gguf_templates, safetensors_problem
from .templates import template_problem

TEXT_BYTES_MAX = 64 << 20  # larger text is not parsed: unknown
CODE_SUFFIXES = {".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".exe", ".sh", ".bat", ".ps1", ".jar"}
PICKLE_SUFFIXES = {".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".dill"}
UNRULED_SUFFIXES = {".h5", ".hdf5", ".keras", ".onnx", ".pb", ".tflite", ".msgpack", ".yaml", ".yml"}
EXECUTABLES = (b"\x7fELF", b"MZ", b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf", b"\xce\xfa\xed\xfe",
               b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"#!")  # fmt: skip
ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!")
PICKLE = re.compile(rb"\A\x80[\x02-\x05]")


@dataclass(frozen=True, slots=True)
class Finding:
    """One file or link. `path` is relative to the scanned folder; `verdict` safe, unsafe or unknown."""

    path: str
    verdict: str
    reasons: tuple[str, ...] = ()


Verdict = tuple[str, tuple[str, ...]]
SAFE: Verdict = ("safe", ())


def scan(path: Path) -> list[Finding]:
    """One finding for each file and link under `path` (or for the one file), sorted by path."""
    if not path.is_dir():
        return [Finding(path.name, *judge(path, path.parent))]
    findings = []
    for folder, folders, files in os.walk(path):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in files + links:
            file = Path(folder) / name
            findings.append(Finding(file.relative_to(path).as_posix(), *judge(file, path)))
    return sorted(findings, key=lambda f: f.path)


def judge(file: Path, root: Path) -> Verdict:
    if file.is_symlink():
        target = file.resolve()
        if not target.is_relative_to(root.resolve()):
            return unsafe("link_outside")
        if target.is_dir() or not target.exists():
            return SAFE if target.is_dir() else ("unknown", ("link_broken",))
    if not file.is_file():
        return unsafe("not_a_file")
    try:
        return judge_content(file)
    except Bad as e:
        return unsafe(str(e))
    except OSError as e:
        return "unknown", (f"unreadable: {e.strerror}",)


def judge_content(file: Path) -> Verdict:
    with open(file, "rb") as opened:
        head = opened.read(4096)
    suffix = file.suffix.lower()
    if suffix in CODE_SUFFIXES or head.startswith(EXECUTABLES):
        return unsafe("remote_code")
    if PICKLE.match(head) or suffix in PICKLE_SUFFIXES or (suffix != ".jinja" and looks_like_pickle_0(head)):
        return unsafe("pickle")
    if head.startswith(ARCHIVES) or head[257:262] == b"ustar":
        return judge_archive(file)
    if head.startswith(b"GGUF"):
        return worst(*(judge_template(t) for t in gguf_templates(file)))
    if suffix == ".gguf":
        return unsafe("not_gguf")
    if suffix == ".safetensors":
        problem = safetensors_problem(file)
        return unsafe(problem) if problem else SAFE
    rule = BY_SUFFIX.get(suffix) or (judge_template if suffix == ".jinja2" else None)
    if rule:
        return judge_text(file, rule)
    if suffix in UNRULED_SUFFIXES or head.startswith((b"\x93NUMPY", b"\x89HDF")):
        return "unknown", ("no_rule",)
    return SAFE  # raw data or plain text: nothing here would run it


def looks_like_pickle_0(head: bytes) -> bool:
    """Protocols 0 and 1 have no magic: the opcodes decide, and a global or a stop right at the end."""
    import pickletools

    place, marks = -1, 0
    try:
        for marks, (opcode, _, at) in enumerate(pickletools.genops(head), 1):
            if opcode.name in ("GLOBAL", "INST") and marks < 64:
                return True
            place = at or 0
    except (ValueError, struct.error, UnicodeDecodeError):
        return False
    return marks > 2 and place == len(head) - 1


def judge_archive(file: Path) -> Verdict:
    """A zip with a pickle inside is a torch file: unsafe. Others have no rule yet."""
    import zipfile

    if zipfile.is_zipfile(file):
        try:
            names = zipfile.ZipFile(file).namelist()
        except (zipfile.BadZipFile, ValueError, OSError):
            return unsafe("archive_broken")
        if any(Path(n).suffix.lower() in PICKLE_SUFFIXES | CODE_SUFFIXES for n in names):
            return unsafe("pickle")
        if any(n.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", n) for n in names):
            return unsafe("archive_path")
    return "unknown", ("archive",)


def judge_text(file: Path, rule: Callable[[str], Verdict]) -> Verdict:
    if file.stat().st_size > TEXT_BYTES_MAX:
        return "unknown", ("too_large",)
    try:
        return rule(file.read_text("utf-8"))
    except UnicodeDecodeError:
        return unsafe("not_text")


def judge_template(text: str) -> Verdict:
    problem = template_problem(text)
    if problem is None:
        return SAFE
    return ("unknown" if problem == "template_unparsed" else "unsafe"), (problem,)


def judge_json(text: str) -> Verdict:
    """Chat templates and `auto_map` at any depth; shard names that leave the folder."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return unsafe("json_broken")
    return worst(*judge_node(document, key="", depth=0))


def judge_node(node: Any, key: str, depth: int) -> list[Verdict]:
    if depth > 64:
        return [("unknown", ("too_deep",))]
    if isinstance(node, dict):
        findings = [unsafe("remote_code")] if {"auto_map", "custom_pipelines"} & set(node) else []
        for name, value in node.items():
            inner = "template" if key == "chat_template" or name == "chat_template" else name
            if key == "weight_map" and isinstance(value, str) and leaves_folder(value):
                findings.append(unsafe("index_path"))
            findings += judge_node(value, inner if inner != "template" else "chat_template", depth + 1)
        return findings
    if isinstance(node, list):
        return [v for item in node for v in judge_node(item, key, depth + 1)]
    return [judge_template(node)] if isinstance(node, str) and key == "chat_template" else []


def leaves_folder(name: str) -> bool:
    return (
        name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or bool(re.match(r"[A-Za-z]:", name))
    )


def unsafe(reason: str) -> Verdict:
    return "unsafe", (reason,)


def worst(*verdicts: Verdict) -> Verdict:
    """The gravest verdict with the reasons of all."""
    order = ("safe", "unknown", "unsafe")
    gravest = max((v for v, _ in verdicts), key=order.index, default="safe")
    return gravest, tuple(dict.fromkeys(r for _, reasons in verdicts for r in reasons))


BY_SUFFIX: dict[str, Callable[[str], Verdict]] = {
    ".json": judge_json,
    ".jinja": judge_template,
    ".xml": lambda text: unsafe("entities") if "<!ENTITY" in text else SAFE,
}
