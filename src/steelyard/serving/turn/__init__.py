"""From a body to a job, from tokens to an answer: what the dialects share."""
