"""Chat templates are programs: parsed by Jinja, never rendered, and refused where they reach too far."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

BUILT_IN = {"cycler", "joiner", "lipsum", "self"}  # objects of Jinja's, a step from Python's own
OF_A_SITE = {"request", "config", "get_flashed_messages"}  # the same, unless the template sets them itself
FORBIDDEN_FILTERS = {"attr", "map_attr"}
FORBIDDEN_NODES = {"Include", "Import", "FromImport", "Extends"}
GROWING = {"append", "extend", "insert", "update", "add"}
TURNS_MAX = 1e6  # of nested loops, as far as constants say; real ones turn over messages and tools


def template_problem(text: str) -> str | None:
    """`template_...` for a construct that no chat template needs, else None."""
    import jinja2

    environment = jinja2.Environment(
        extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do", generation_tag()]
    )
    try:
        tree = environment.parse(text)
        nodes = list(nodes_of(tree))
        own = {n.name for n in nodes if type(n).__name__ == "Name" and n.ctx in ("store", "param")}
        problem = next((p for node in nodes if (p := node_problem(node, own))), None)
        return problem or loop_problem(tree, 1.0)
    except (jinja2.TemplateError, RecursionError, ValueError, MemoryError):
        return "template_unparsed"


def generation_tag() -> Any:
    """`{% generation %}` of transformers: it marks the answer and renders its body."""
    from jinja2.ext import Extension

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012 - Jinja's own interface

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return Generation


def nodes_of(tree: Any) -> Iterator[Any]:
    open_nodes = [tree]
    while open_nodes:
        node = open_nodes.pop()
        yield node
        open_nodes += node.iter_child_nodes()


def node_problem(node: Any, own: set[str]) -> str | None:
    kind = type(node).__name__
    if kind in FORBIDDEN_NODES:
        return "template_include"
    if kind == "Getattr" and "__" in node.attr:
        return "template_dunder"
    if kind == "Const" and isinstance(node.value, str) and "__" in node.value:
        return "template_dunder"
    if kind == "Filter" and (node.name in FORBIDDEN_FILTERS or _maps_attr(node)):
        return "template_attr_filter"
    if kind == "Name" and node.ctx == "load" and node.name in BUILT_IN | (OF_A_SITE - own):
        return "template_name"
    if kind == "Getitem" and _is_spelled(node.arg):
        return "template_computed_name"
    return None


def _maps_attr(node: Any) -> bool:
    """`x | map("attr", name)` is the filter by another way."""
    return any(getattr(a, "value", None) == "attr" for a in node.args or []) and node.name in MAPS


MAPS = {"map", "select", "reject", "selectattr", "rejectattr"}


def _is_spelled(node: Any) -> bool:
    """A name put together from constants: who means well writes it out."""
    kind = type(node).__name__
    if kind not in ("Concat", "Add", "Mod", "Filter", "Mul", "Call"):
        return False
    leaves = [n for n in nodes_of(node) if type(n).__name__ in ("Const", "Name", "TemplateData")]
    texts = [n for n in leaves if isinstance(getattr(n, "value", None), str)]
    return bool(texts) and all(type(n).__name__ == "Const" for n in leaves)


# ------------------------------------------------------------------ loops


def loop_problem(node: Any, turns: float) -> str | None:
    """Loops that constants alone make long, loops that lengthen what they walk, texts beyond any prompt."""
    kind = type(node).__name__
    if kind == "For":
        turns *= max(1.0, length_of(node.iter))
        if turns > TURNS_MAX or _grows(node):
            return "template_loop"
    if max(length_of(node), value_of(node) if kind == "Pow" else 0.0) > TURNS_MAX:
        return "template_size"
    return next((p for child in node.iter_child_nodes() if (p := loop_problem(child, turns))), None)


def _grows(loop: Any) -> bool:
    name = getattr(loop.iter, "name", None)
    calls = [n.node for part in loop.body for n in nodes_of(part) if type(n).__name__ == "Call"]
    grown = [c.node for c in calls if getattr(c, "attr", "") in GROWING]
    return name is not None and any(getattr(node, "name", None) == name for node in grown)


def length_of(node: Any) -> float:
    """Items of a constant list, text or range; 0 where the template's input decides."""
    kind = type(node).__name__
    if kind == "Const" and isinstance(node.value, str):
        return float(len(node.value))
    if kind in ("List", "Tuple"):
        return float(len(node.items))
    if kind == "Filter" and node.node is not None:
        return length_of(node.node)
    if kind == "Mul":
        left, right = node.left, node.right
        return max(length_of(left) * value_of(right), length_of(right) * value_of(left), 0.0)
    if kind == "Call" and getattr(node.node, "name", "") == "range":
        ends = [value_of(a) for a in node.args[:2]]
        return max(ends, default=0.0) - (ends[0] if len(ends) == 2 else 0.0)
    return 0.0


def value_of(node: Any) -> float:
    """A number that constants give; 0 otherwise. Never computed in whole numbers: 9**9**9 would not end."""
    kind = type(node).__name__
    if kind == "Const" and isinstance(node.value, int | float):
        return float(min(node.value, 10**300))
    if kind not in ("Add", "Mul", "Pow"):
        return 0.0
    left, right = value_of(node.left), value_of(node.right)
    try:
        return {"Add": left + right, "Mul": left * right}[kind] if kind != "Pow" else left**right
    except (OverflowError, ZeroDivisionError):
        return float("inf")
