"""The process that does one heavy step, and the memory that it took."""
