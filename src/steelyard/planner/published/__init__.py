"""What others measured: their rows, the constants fitted to them, what was claimed in public."""
