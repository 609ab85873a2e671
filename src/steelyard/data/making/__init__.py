"""Documents become data: passages to learn from, and questions with answers that a model makes of each."""
