"""A service as its user starts, finds, asks and stops it, and the process of its HTTP front."""
