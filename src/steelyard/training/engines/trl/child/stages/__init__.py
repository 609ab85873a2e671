"""Stages that need more than a trainer of TRL by its name: configuration, trainer and batches of each."""
