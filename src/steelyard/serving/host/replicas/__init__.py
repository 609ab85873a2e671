"""Several engines of one model as one: which is asked (balance.py, pure), and the asking (pool.py);
how many there shall be (scaling.py, pure), and their coming and going (scaler.py)."""

from .balance import BLOCK_TOKENS, Balance, Load, blocks_of
from .pool import Replicas
from .scaler import Scaler
from .scaling import Scale, Scaling

__all__ = ["BLOCK_TOKENS", "Balance", "Load", "Replicas", "Scale", "Scaler", "Scaling", "blocks_of"]
