"""A service that is running, and its model: the next by a canary or a refresh, or back to the one before."""
