"""Services that a run starts, judges, measures and publishes."""
