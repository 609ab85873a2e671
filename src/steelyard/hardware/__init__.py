"""What there is to compute on: the catalogue, this machine, and how fast this machine is.

Not here: what a job costs (planner).
"""

from .calibration import Calibration, measure, recall
from .catalogue import (
    Device,
    Devices,
    behaviour,
    catalogue,
    fitted_rows,
    lookup,
    model_names,
    named_models,
    published_claims,
    published_constants,
    resolve,
)
from .contention import UNDISTURBED, CpuTimes, cores_had, cpu_times, fair_share
from .machine import Machine, accelerator_files, affinity, free_bytes, probe
from .sheet import sheet
from .tables import numbered, read_table
from .training_probe import Rehearsal, probe_training, time_cells

__all__ = [
    "UNDISTURBED",
    "Calibration",
    "CpuTimes",
    "Device",
    "Devices",
    "Machine",
    "Rehearsal",
    "accelerator_files",
    "affinity",
    "behaviour",
    "catalogue",
    "cores_had",
    "cpu_times",
    "fair_share",
    "fitted_rows",
    "free_bytes",
    "lookup",
    "measure",
    "model_names",
    "named_models",
    "numbered",
    "probe",
    "probe_training",
    "published_claims",
    "published_constants",
    "read_table",
    "recall",
    "resolve",
    "sheet",
    "time_cells",
]
