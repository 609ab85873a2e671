"""Verbs about machines: whether they are fit, and several as a cluster."""
