"""What every floor stands on: errors, keys and guard, the queue, the store, measures, spans."""
