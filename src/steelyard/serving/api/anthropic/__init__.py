"""Anthropic's messages: routes and bodies."""
