"""Attempts on the nodes of a Ray cluster; who owns a job stands in a folder that all of them share."""

from .place import OnRay, on_ray

__all__ = ["OnRay", "on_ray"]
