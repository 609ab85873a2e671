"""What outlives a request: files, batches, tuning jobs."""
