"""Steelyard: from an open model and your data to a private service, weighed before it is built."""

__version__ = "0.1.0"
