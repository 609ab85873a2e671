"""Verbs of trust: who may read, who made it, what it is of, which service is believed."""
