"""Time, memory and energy of one setting on one device: no search, no table, no taste."""
