"""ONNX and TensorFlow graphs, read field by field from protobuf: operators that run Python or touch files,
and tensors that lie outside the folder."""

from __future__ import annotations

from collections.abc import Iterator

from ..limits import Bad, Limits, TooMuch
from ..view import View
from ..zips import leaves_folder

DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training", "ai.onnx.preview",
           "com.microsoft", "com.microsoft.nchwc", "com.microsoft.dml", "com.microsoft.experimental",
           "com.ms.internal.nhwc", "ai.onnx.contrib", "ai.onnxruntime_extensions",
           "org.pytorch.aten"}  # fmt: skip
PYTHON = {"PyOp", "PythonOp", "PythonOpGrad", "PyCustomOp", "PyFunc", "ExternalStream"}
TF_OPERATORS = {"ReadFile", "WriteFile", "MatchingFiles", "PyFunc", "PyFuncStateless", "EagerPyFunc",
                "NumpyFunction", "LoadLibrary", "RegisterDataset", "DumpGraph"}  # fmt: skip
NESTING_MAX = 64
TEXT_BYTES_MAX = 4096

Field = tuple[int, View]  # number, content (empty where it is no message)


def fields(view: View, limits: Limits) -> Iterator[Field]:
    """The fields of one message. Raises Bad where it is none."""
    at = 0
    while at < view.size:
        limits.check_time()
        key, at = _varint(view, at)
        number, wire = key >> 3, key & 7
        if wire == 2:
            length, at = _varint(view, at)
        elif wire == 0:
            _, end = _varint(view, at)
            length = end - at
        else:
            length = {1: 8, 5: 4}.get(wire, -1)
        if number == 0 or length < 0 or at + length > view.size:
            raise Bad("protobuf_broken")
        yield number, view.part(at, length if wire == 2 else 0)
        at += length


def _varint(view: View, at: int) -> tuple[int, int]:
    value = 0
    for i, byte in enumerate(view.read_at(at, 10)):
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, at + i + 1
    raise Bad("protobuf_broken")


def text(view: View) -> str:
    return view.read_at(0, TEXT_BYTES_MAX).decode("utf-8", "replace")


# ------------------------------------------------------------------ ONNX


def check_onnx(view: View, limits: Limits) -> None:
    """Raises Bad, TooMuch (`onnx_operator`: of a domain that has no rule)."""
    own, domains, nodes = set(), set(), 0
    for number, part in fields(view, limits):
        if number == 7:
            domains |= _graph(part, limits, 0)
            nodes += 1
        elif number == 25:
            domain, inner = _function(part, limits)
            own.add(domain)
            domains |= inner
        elif number == 8:
            nodes += 1
    if not nodes:
        raise Bad("protobuf_broken")
    if domains - own - DOMAINS:
        raise TooMuch("onnx_operator")


def _graph(view: View, limits: Limits, depth: int) -> set[str]:
    """Domains of its operators, those of graphs within too."""
    if depth > NESTING_MAX:
        raise TooMuch("too_deep")
    domains: set[str] = set()
    for number, part in fields(view, limits):
        if number == 1:
            domains |= _node(part, limits, depth)
        elif number == 5:
            _tensor(part, limits)
        elif number == 15:  # sparse: values, indices
            for inner, tensor in fields(part, limits):
                if inner in (1, 2):
                    _tensor(tensor, limits)
    return domains


def _function(view: View, limits: Limits) -> tuple[str, set[str]]:
    domain, domains = "", set()
    for number, part in fields(view, limits):
        if number == 7:
            domains |= _node(part, limits, 0)
        elif number == 10:
            domain = text(part)
    return domain, domains


def _node(view: View, limits: Limits, depth: int) -> set[str]:
    domains = {""}
    for number, part in fields(view, limits):
        if number == 4 and text(part) in PYTHON:
            raise Bad("onnx_python")
        if number == 7:
            domains = {text(part)}
        elif number == 5:
            domains = domains | _attribute(part, limits, depth)
    return domains


def _attribute(view: View, limits: Limits, depth: int) -> set[str]:
    domains: set[str] = set()
    for number, part in fields(view, limits):
        if number in (5, 10):
            _tensor(part, limits)
        elif number in (6, 11):
            domains |= _graph(part, limits, depth + 1)
        elif number in (22, 23):
            for inner, tensor in fields(part, limits):
                if inner in (1, 2):
                    _tensor(tensor, limits)
    return domains


def _tensor(view: View, limits: Limits) -> None:
    """Where external data lie: within the folder?"""
    for number, part in fields(view, limits):
        if number != 13:
            continue
        pair = {inner: text(value) for inner, value in fields(part, limits)}
        if pair.get(1) == "location" and (leaves_folder(pair.get(2, "")) or "\\" in pair.get(2, "")):
            raise Bad("onnx_path")


# ------------------------------------------------------------------ TensorFlow


def check_tensorflow(view: View, limits: Limits) -> None:
    """A SavedModel, or else a lone graph. Raises Bad, TooMuch."""
    graphs = _saved_graphs(view, limits)
    if graphs is None:
        graphs = [view]
    for graph in graphs:
        for number, part in fields(graph, limits):
            if number == 1:
                _tf_node(part, limits)
            elif number == 2:
                _tf_library(part, limits)


def _saved_graphs(view: View, limits: Limits) -> list[View] | None:
    """The graphs of a SavedModel; None where this is a graph itself, whose second field is its library."""
    graphs = []
    first = [number for number, part in fields(view, limits) if not (number == 1 and part.size == 0)]
    if 1 in first:  # a graph's first field is a node; a SavedModel's is a number
        return None
    for number, meta in fields(view, limits):
        if number == 2:
            graphs += [part for inner, part in fields(meta, limits) if inner == 2]
    return graphs


def _tf_node(view: View, limits: Limits) -> None:
    operator, writes = "", False
    for number, part in fields(view, limits):
        if number == 2:
            operator = text(part)
        elif number == 5:
            writes |= b"file://" in part.read_at(0, TEXT_BYTES_MAX)
    if operator in TF_OPERATORS or (operator == "PrintV2" and writes):
        raise Bad(f"tensorflow_operator {operator}")


def _tf_library(view: View, limits: Limits) -> None:
    for number, function in fields(view, limits):
        if number == 1:
            for inner, part in fields(function, limits):
                if inner == 3:
                    _tf_node(part, limits)
