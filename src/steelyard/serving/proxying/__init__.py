"""The client's end of sealed prompts: appraises a service, seals what local programs send to it."""
