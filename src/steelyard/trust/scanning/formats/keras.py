"""Keras' description of a model in JSON: which classes it would make, and from which modules."""

from __future__ import annotations

from typing import Any

from ..limits import Bad, TooMuch

DEPTH_MAX = 200
# Layers that hold code or load other models (CVE-2026-1462), and those that may read a file (CVE-2025-12058).
CODE = {"Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper", "FlaxLayer", "JaxLayer", "TFOpLambda"}
TABLES = {"StringLookup", "IntegerLookup", "IndexLookup", "TextVectorization", "Hashing"}
# Parts of keras that only compute; keras.utils fetches files, keras.config switches safe mode off.
PARTS = {"activations", "constraints", "dtype_policies", "engine", "initializers", "layers", "losses",
         "metrics", "mixed_precision", "models", "ops", "optimizers", "quantizers", "random",
         "regularizers"}  # fmt: skip
FUNCTIONS = PARTS - {"layers", "models", "engine", "random"}


def is_model(document: Any) -> bool:
    return isinstance(document, dict) and {"class_name", "config"} <= set(document)


def check_model(document: Any) -> None:
    """Raises Bad for a class that runs or loads code, TooMuch for one too deep."""
    waiting = [(document, 0)]
    while waiting:
        node, depth = waiting.pop()
        if depth > DEPTH_MAX:
            raise TooMuch("too_deep")
        if isinstance(node, dict):
            _check_class(node)
            waiting += [(value, depth + 1) for value in node.values()]
        elif isinstance(node, list):
            waiting += [(value, depth + 1) for value in node]


def _check_class(node: dict[str, Any]) -> None:
    name, config = node.get("class_name"), node.get("config")
    if name is None or "config" not in node:
        return
    if not isinstance(name, str) or name in CODE:
        raise Bad("keras_code")
    if name in TABLES and isinstance(config, dict) and isinstance(config.get("vocabulary"), str):
        raise Bad("keras_file")
    if not _is_keras(node.get("module"), name == "function") or _is_custom(node.get("registered_name")):
        raise Bad("keras_module")


def _is_keras(module: Any, function: bool) -> bool:
    """None: Keras 2, or a value of a plain kind."""
    if module is None:
        return not function
    if not isinstance(module, str):
        return False
    root, *rest = module.split(".")
    rest = rest[1:] if rest[:1] == ["src"] else rest
    if module == "builtins":
        return not function
    parts = FUNCTIONS if function else PARTS
    return root == "keras" and (not rest or rest[0] in parts) and not (function and not rest)


def _is_custom(name: Any) -> bool:
    """`package>Class` is code of somebody's own; Keras registers its own names bare or under its name."""
    return isinstance(name, str) and ">" in name and not name.startswith(("keras", "Keras"))
