"""The process that knows Ray. It imports nothing of ours: it runs by the Python that has Ray."""
