"""The exact network: log-probabilities of given ids, in memory, layer by layer, or in another process."""
