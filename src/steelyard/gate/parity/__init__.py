"""Does an endpoint behave as a model folder says? Probes, what they showed, and the cause where they fail."""
