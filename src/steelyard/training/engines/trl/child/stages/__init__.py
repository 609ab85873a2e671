"""Stages that need more than a trainer of TRL by its name: how each is configured and what its batches are."""
