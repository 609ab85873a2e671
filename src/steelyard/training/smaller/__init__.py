"""A smaller model learns from the one that it was made of."""
