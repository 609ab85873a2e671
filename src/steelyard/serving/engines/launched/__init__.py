"""Engines that have a server of their own: vLLM and SGLang, each in an environment of its own."""
