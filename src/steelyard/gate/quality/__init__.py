"""Scores of answers, and what base, tuned and served differ by."""
