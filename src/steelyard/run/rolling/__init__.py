"""A service that is running, and which model it has: back to the one before."""
