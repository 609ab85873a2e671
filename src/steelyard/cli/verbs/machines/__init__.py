"""Verbs about machines: whether they are fit, several as a cluster, a fleet of them simulated."""
