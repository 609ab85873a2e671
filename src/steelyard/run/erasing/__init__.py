"""Rows by their lineage: what holds them (trace), how they go (erase), what is processed at all (record)."""
