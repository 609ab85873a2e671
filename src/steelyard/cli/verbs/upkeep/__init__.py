"""Verbs that keep house: what may go, and what was done."""
