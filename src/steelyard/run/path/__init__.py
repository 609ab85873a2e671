"""The steps of a run: a table, one driver, and what goes on beside them."""
