"""Who makes quotes: the kernel of a trust domain, and a simulated platform for tests."""

from .simulated import SimulatedTee
from .simulated_snp import SimulatedSnp
from .tsm import quote_of_this_domain

__all__ = ["SimulatedSnp", "SimulatedTee", "quote_of_this_domain"]
