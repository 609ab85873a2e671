"""Verbs about machines as such."""
