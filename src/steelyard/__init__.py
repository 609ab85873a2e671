"""Steelyard: from an open model and your data to a private service, weighed before it is built."""

from .telemetry import switch_off as _switch_off_telemetry

_switch_off_telemetry()  # first: before anything that could bring an engine along

__version__ = "0.1.0"
