"""OpenAI's responses: routes, bodies, output and store."""
