"""How a training goes on by what it sees: looks, a mix that follows them, checkpoints that are due."""
