"""From a recipe to a planned run: base, data, machine, settings, predictions."""
