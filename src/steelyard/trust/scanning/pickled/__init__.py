"""Files whose content is a pickle, or holds one: walked opcode by opcode, never loaded."""

from .arrays import check_npy
from .torch_files import check_pickle, check_torch_data, may_be_pickle

__all__ = ["check_npy", "check_pickle", "check_torch_data", "may_be_pickle"]
