"""A service that is running, and which model it has: the next by a canary or a refresh, or back to the one before."""
