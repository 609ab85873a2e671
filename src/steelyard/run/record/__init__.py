"""What a run leaves to read: its folder, its outcome, what became of each form."""
