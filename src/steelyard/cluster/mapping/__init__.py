"""A pure function over many items, on the nodes of a cluster: answers in their order."""

from .mapper import on_nodes

__all__ = ["on_nodes"]
