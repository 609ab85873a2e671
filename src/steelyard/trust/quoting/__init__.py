"""Who makes quotes: the kernel of a trust domain, Gramine in an enclave, simulated platforms for tests."""

from .gramine import DEVICE, quote_of_this_enclave
from .simulated import SimulatedTee
from .simulated_snp import SimulatedSnp
from .tsm import quote_of_this_domain

__all__ = ["SimulatedSnp", "SimulatedTee", "quote_here", "quote_of_this_domain", "quote_of_this_enclave"]


def quote_here(report_data: bytes) -> bytes:
    """Of the enclave or trust domain that this process runs in. Raises Lacking where it runs in none."""
    make = quote_of_this_enclave if DEVICE.is_dir() else quote_of_this_domain
    return make(report_data)
