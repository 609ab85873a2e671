"""Names and addresses in running prose, by a token classifier that the user names; none is shipped.

A folder as transformers writes it: config.json, tokenizer.json, and model.safetensors or model.onnx. Nothing
is fetched, and no code of the folder runs. Not here: the placeholders (personal.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ...errors import Lacking, Where, WrongUse

# What models call them, letters alone: CoNLL, OntoNotes, AI4Privacy, CLUENER, OpenAI's Privacy Filter.
KINDS = {
    **dict.fromkeys(
        ("PER", "PERS", "PERSON", "NAME", "FULLNAME", "FIRSTNAME", "MIDDLENAME", "LASTNAME", "GIVENNAME",
         "SURNAME", "PRIVATEPERSON", "PATIENT", "DOCTOR"), "NAME"),
    **dict.fromkeys(
        ("ADDRESS", "ADDR", "STREET", "STREETADDRESS", "STREETNAME", "BUILDINGNUM", "BUILDINGNUMBER",
         "SECONDARYADDRESS", "PRIVATEADDRESS"), "ADDRESS"),
}  # fmt: skip
FORM = re.compile(r"^([BIESLU])[-_]", re.IGNORECASE)
MOST_TOKENS, OVERLAP = 512, 64  # of one look at a long text
PACKAGES = {".safetensors": ("torch", "transformers"), ".onnx": ("onnxruntime",)}
WEIGHTS = ("model.safetensors", "model.onnx", "onnx/model.onnx")
WIDE = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]")


@dataclass(frozen=True, slots=True)
class Span:
    start: int
    end: int
    kind: str  # NAME or ADDRESS


@dataclass(frozen=True, slots=True)
class Label:
    kind: str | None
    begins: bool  # it starts a span, whatever stands before


Logits = Callable[[np.ndarray, np.ndarray], np.ndarray]  # ids, mask [n, tokens] -> [n, tokens, labels]
Tagger = Callable[[str], list[Span]]


def check_tagger(folder: str) -> None:
    """What can be said before a row is read. Raises WrongUse."""
    path = Path(folder)
    lost = next((name for name in ("config.json", "tokenizer.json") if not (path / name).is_file()), None)
    if lost or weights_of(path) is None:
        raise WrongUse(
            "data.pii_model", f"{path.name} has no {lost or ' or '.join(WEIGHTS[:2])}",
            where=Where(str(path), field="clean.pii_model"),
            hint="name the folder of a token classifier, as save_pretrained of transformers writes it",
        )  # fmt: skip
    labels_of(path)


def weights_of(path: Path) -> Path | None:
    return next((path / name for name in WEIGHTS if (path / name).is_file()), None)


def labels_of(path: Path) -> list[Label]:
    """By number. Raises WrongUse where none is a name or an address."""
    names = orjson.loads((path / "config.json").read_bytes()).get("id2label") or {}
    labels = [label_of(str(names[key])) for key in sorted(names, key=int)]
    if not any(label.kind for label in labels):
        shown = ", ".join(map(str, list(names.values())[:12])) or "none"
        raise WrongUse(
            "data.pii_labels", f"no label of {path.name} is a person or an address",
            where=Where(str(path / "config.json"), field="id2label"), why=f"its labels are {shown}",
            hint="labels are known by name, with or without B- and I-: PER, PERSON, NAME, ADDRESS, STREET",
        )  # fmt: skip
    return labels


def label_of(name: str) -> Label:
    """`B-PER` begins a name, `I-PER` and a plain `PER` go on with one."""
    form = FORM.match(name)
    bare = re.sub(r"[^A-Z]", "", FORM.sub("", name).upper())
    return Label(KINDS.get(bare), bool(form) and form[1].upper() in "BSU")  # type: ignore[index]


@cache
def tagger(folder: str) -> Tagger:
    """The classifier of a folder, loaded once a process. Raises WrongUse, Lacking."""
    check_tagger(folder)
    path = Path(folder)
    labels, tokenizer, logits = labels_of(path), tokenizer_of(path), logits_of(path)

    def spans(text: str) -> list[Span]:
        if not text.strip():
            return []
        first = tokenizer.encode(text)
        windows = [first, *first.overflowing]
        return joined_spans([s for w in windows for s in window_spans(text, w, labels, logits)])

    return spans


def tokenizer_of(path: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as e:
        raise lacks("tokenizers") from e
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    config = orjson.loads((path / "config.json").read_bytes())
    most = min(MOST_TOKENS, int(config.get("max_position_embeddings") or MOST_TOKENS) - 2)
    tokenizer.no_padding()
    tokenizer.enable_truncation(most, stride=min(OVERLAP, most // 4))
    return tokenizer


def logits_of(path: Path) -> Logits:
    weights = weights_of(path)
    assert weights is not None
    return by_transformers(path) if weights.suffix == ".safetensors" else by_onnx(weights)


def by_transformers(path: Path) -> Logits:
    torch, transformers = map(needed, PACKAGES[".safetensors"])
    model = transformers.AutoModelForTokenClassification.from_pretrained(
        path, local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
    ).eval()

    def logits(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # sums have one order, on any number of cores
        try:
            with torch.inference_mode():
                out = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
        finally:
            torch.set_num_threads(threads)
        return out.logits.numpy()

    return logits


def by_onnx(weights: Path) -> Logits:
    """By onnxruntime, on one thread for the same reason."""
    (onnxruntime,) = map(needed, PACKAGES[".onnx"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(weights), options, providers=["CPUExecutionProvider"])
    names = {one.name for one in session.get_inputs()}

    def logits(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        every = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        return session.run(None, {name: value for name, value in every.items() if name in names})[0]

    return logits


def needed(package: str) -> Any:
    """By name, not by an import: who names no model does not depend on their versions. Raises Lacking."""
    try:
        return import_module(package)
    except ImportError as e:
        raise lacks(package) from e


def packages_of(path: Path) -> dict[str, str]:
    """Versions of what the model of this folder runs on."""
    weights = weights_of(path)
    names = (*PACKAGES[weights.suffix], "tokenizers") if weights else ()
    return {name: version(name) if find_spec(name) else "" for name in names}


def lacks(package: str) -> Lacking:
    return Lacking(
        "data.pii_packages", f"clean.pii_model needs {package}, which is not installed",
        where=Where(field="clean.pii_model"), hint=f"install {package}, or take pii_model out",
    )  # fmt: skip


# ------------------------------------------------------------------ spans


def window_spans(text: str, window: Any, labels: Sequence[Label], logits: Logits) -> Iterator[Span]:
    """Of one look, in order."""
    ids = np.array([window.ids], dtype=np.int64)
    best = logits(ids, np.ones_like(ids))[0].argmax(axis=-1).tolist()
    span: Span | None = None
    for number, (start, end), special in zip(best, window.offsets, window.special_tokens_mask, strict=True):
        label = labels[number]
        if special or start == end:
            continue
        if span and goes_on(text, span, label, start):
            span = Span(span.start, end, span.kind)
            continue
        if span:
            yield span
        span = Span(start, end, label.kind) if label.kind else None
    if span:
        yield span


def goes_on(text: str, span: Span, label: Label, start: int) -> bool:
    """A piece of the same word, whatever its label; else the same kind, with but a gap between."""
    between = text[span.end : start]
    if not between and start and is_latin(text[start - 1]) and is_latin(text[start]):
        return True
    return label.kind == span.kind and not label.begins and not between.strip(" \t\u00a0·.,-'’")


def is_latin(char: str) -> bool:
    return char.isalnum() and not WIDE.match(char)


def joined_spans(spans: Sequence[Span]) -> list[Span]:
    """In order, those that overlap as one: long texts are looked at in windows that do."""
    out: list[Span] = []
    for span in sorted(spans, key=lambda s: (s.start, s.end)):
        if out and span.start < out[-1].end:
            out[-1] = Span(out[-1].start, max(out[-1].end, span.end), out[-1].kind)
        else:
            out.append(span)
    return out
