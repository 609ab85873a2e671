"""What no recipe, service or run refers to any more, and its removal."""
