"""Who makes quotes: the kernel of a trust domain, and a simulated platform for tests."""

from .simulated import SimulatedTee
from .tsm import quote_of_this_domain

__all__ = ["SimulatedTee", "quote_of_this_domain"]
