"""Chat templates are programs: parsed by Jinja, never rendered, and refused where they reach too far."""

from __future__ import annotations

from typing import Any

FORBIDDEN_NAMES = {"cycler", "joiner", "lipsum", "self", "request", "config", "get_flashed_messages"}
FORBIDDEN_FILTERS = {"attr", "map_attr"}
FORBIDDEN_NODES = {"Include", "Import", "FromImport", "Extends"}


def template_problem(text: str) -> str | None:
    """`template_...` for a construct that no chat template needs, else None."""
    import jinja2

    environment = jinja2.Environment(
        extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do", generation_tag()]
    )
    try:
        tree = environment.parse(text)
    except (jinja2.TemplateError, RecursionError):
        return "template_unparsed"
    return next((p for node in nodes_of(tree) if (p := node_problem(node))), None)


def generation_tag() -> Any:
    """Many published templates mark the answer by {% generation %}, a tag of their trainer."""
    from jinja2.ext import Extension

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012 - Jinja's own interface

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return Generation


def nodes_of(tree: Any) -> list[Any]:
    nodes, open_nodes = [], [tree]
    while open_nodes:
        node = open_nodes.pop()
        nodes.append(node)
        open_nodes += node.iter_child_nodes()
    return nodes


def node_problem(node: Any) -> str | None:
    kind = type(node).__name__
    if kind in FORBIDDEN_NODES:
        return "template_include"
    if kind == "Getattr" and "__" in node.attr:
        return "template_dunder"
    if kind == "Const" and isinstance(node.value, str) and "__" in node.value:
        return "template_dunder"
    if kind == "Filter" and node.name in FORBIDDEN_FILTERS:
        return "template_attr_filter"
    if kind == "Name" and node.ctx == "load" and node.name in FORBIDDEN_NAMES:
        return "template_name"
    return None
