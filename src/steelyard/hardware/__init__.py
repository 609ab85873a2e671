"""What there is to compute on: the catalogue, this machine, and how fast this machine is.

Not here: what a job costs (planner).
"""

from .calibration import Calibration, cache_folder, measure
from .catalogue import Device, Devices, catalogue, lookup, named_models, plain, published_constants
from .findings import Finding, findings
from .machine import Machine, affinity, probe
from .tables import read_table

__all__ = [
    "Calibration",
    "Device",
    "Devices",
    "Finding",
    "Machine",
    "affinity",
    "cache_folder",
    "catalogue",
    "findings",
    "lookup",
    "measure",
    "named_models",
    "plain",
    "probe",
    "published_constants",
    "read_table",
]
