"""The served model: its engines as processes, jobs in, answers out. Knows no HTTP."""
