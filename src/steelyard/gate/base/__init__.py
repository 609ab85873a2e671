"""What every floor of the gate speaks of: an endpoint, its answers, a verdict, the modes and their limits."""
