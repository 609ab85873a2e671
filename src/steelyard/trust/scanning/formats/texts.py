"""JSON, YAML, XML and templates of a model folder: parsed, never rendered, nothing in them loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from ..limits import Bad, Limits, TooMuch
from ..zips import leaves_folder
from .keras import check_model, is_model
from .templates import template_problem

DEPTH_MAX = 64
TEMPLATE_BYTES_MAX = 1 << 20
YAML_BYTES_MAX = 4 << 20
CODE_KEYS = {"auto_map", "custom_pipelines", "custom_pipeline", "trust_remote_code"}
# A name with a slash there is a repository whose code is fetched and run (CVE-2026-4372).
ATTENTION_KEYS = {"_attn_implementation_internal", "_attn_implementation", "attn_implementation",
                  "_experts_implementation_internal", "_experts_implementation"}  # fmt: skip
# What hydra and its kin may make of a name: parts of networks.
TARGETS = ("torch.nn.", "torch.optim.", "nemo.collections.", "transformers.models.", "diffusers.models.",
           "diffusers.schedulers.", "timm.models.", "megatron.core.", "uni2ts.distribution.",
           "uni2ts.model.")  # fmt: skip
YAML_CALLS = ("!new:", "!apply:", "!name:", "!module:")  # HyperPyYAML


def check_template(text: str) -> None:
    if len(text) > TEMPLATE_BYTES_MAX:
        raise TooMuch("too_large")
    problem = template_problem(text)
    if problem == "template_unparsed":
        raise TooMuch(problem)
    if problem:
        raise Bad(problem)


def check_xml(text: str) -> None:
    if "<!ENTITY" in text:
        raise Bad("entities")


# ------------------------------------------------------------------ JSON


def check_json(text: str) -> None:
    """Chat templates, code by name and shard names, at any depth; Keras' models. Raises Bad, TooMuch."""
    try:
        document = json.loads(text)
    except RecursionError as e:
        raise TooMuch("too_deep") from e
    except ValueError as e:
        raise Bad("json_broken") from e
    if is_model(document):
        check_model(document)
    check_document(document)


def check_json_lines(text: str) -> None:
    for line in text.splitlines():
        if line.strip():
            check_json(line)


def check_document(document: Any) -> None:
    for key, value, within in _items(document):
        if key == "chat_template" or "chat_template" in within:
            if isinstance(value, str) and not (key == "name" and "chat_template" in within):
                check_template(value)
        elif key in RULES:
            RULES[key](value)
        if "weight_map" in within and isinstance(value, str) and leaves_folder(value):
            raise Bad("index_path")


def _items(document: Any) -> Iterator[tuple[str, Any, tuple[str, ...]]]:
    """Each key with its value and the keys around it; an item of a list bears the list's key."""
    waiting: list[tuple[str, Any, tuple[str, ...]]] = [("", document, ())]
    while waiting:
        key, node, within = waiting.pop()
        if len(within) > DEPTH_MAX:
            raise TooMuch("too_deep")
        if key:
            yield key, node, within
        around = (*within, key)
        if isinstance(node, dict):
            waiting += [(str(name), value, around) for name, value in node.items()]
        elif isinstance(node, list):
            waiting += [(key, value, around) for value in node if isinstance(value, dict | list | str)]


def _code(value: Any) -> None:
    if value not in (None, False):
        raise Bad("remote_code")


def _attention(value: Any) -> None:
    if isinstance(value, str) and "/" in value:
        raise Bad("remote_code")


def _target(value: Any) -> None:
    """Instantiated by its name: anything but a part of a network runs what it likes (CVE-2025-23304)."""
    if isinstance(value, str) and not value.startswith(TARGETS):
        raise Bad(f"config_target {value[:60]}")


def _pipeline(value: Any) -> None:
    """Of diffusers: `[file, class]` is code beside the model."""
    if isinstance(value, list):
        raise Bad("remote_code")


def _library(value: Any) -> None:
    """peft imports it."""
    root = value.split(".")[0] if isinstance(value, str) else value
    if root not in (None, "transformers", "diffusers", "timm", "torch", "sentence_transformers"):
        raise Bad("remote_code")


def check_modules(text: str) -> None:
    """sentence-transformers' modules.json: each `type` is imported."""
    check_json(text)
    document = json.loads(text)
    kinds = [m.get("type") for m in document if isinstance(m, dict)] if isinstance(document, list) else []
    if any(not str(kind).startswith("sentence_transformers.") for kind in kinds):
        raise Bad("remote_code")


RULES = {
    **dict.fromkeys(CODE_KEYS, _code),
    **dict.fromkeys(ATTENTION_KEYS, _attention),
    "_target_": _target,
    "_class_name": _pipeline,
    "parent_library": _library,
}


# ------------------------------------------------------------------ YAML


def check_yaml(text: str, limits: Limits) -> None:
    """Tags that make Python objects, and names that hydra instantiates: by events, no alias is followed."""
    from ruamel.yaml import YAML, YAMLError

    if len(text) > YAML_BYTES_MAX:
        raise TooMuch("too_large")
    target = False
    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            limits.check_time()
            _check_tag(str(getattr(event, "tag", None) or ""))
            value = getattr(event, "value", None)
            if target:
                _target(value)
            target = value == "_target_"
    except (YAMLError, ValueError, RecursionError, AttributeError) as e:
        raise TooMuch("yaml_unparsed") from e


def _check_tag(tag: str) -> None:
    if re.search(r"python[/:]|^!!?python", tag) or tag.startswith(YAML_CALLS):
        raise Bad("yaml_tag")
