"""A process that knows Ray, asked by ours over pipes, and what works for it on the nodes."""

from .process import WHERE, RayProcess, differs, ray_process

__all__ = ["WHERE", "RayProcess", "differs", "ray_process"]
