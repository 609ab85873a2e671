"""Several engines of one model as one: which is asked (balance.py, pure), and the asking (pool.py)."""

from .balance import Balance, Load, blocks_of
from .pool import Replicas

__all__ = ["Balance", "Load", "Replicas", "blocks_of"]
