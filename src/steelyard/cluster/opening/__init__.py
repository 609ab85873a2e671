"""A cluster over ssh, by one command: hosts checked, installed, made nodes; and ended again."""

from .hosts_file import Host, Hosts, read_hosts
from .open import Row, close, open_hosts, states

__all__ = ["Host", "Hosts", "Row", "close", "open_hosts", "read_hosts", "states"]
