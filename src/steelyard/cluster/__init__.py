"""Machines that work together: who is the head, whether it can be reached, one of them as a node."""

from .nodes import check_reachable, cluster_address, node_words, start_node

__all__ = ["check_reachable", "cluster_address", "node_words", "start_node"]
