"""Loaders of exported files, each in a process of its own: llama.cpp's server, transformers, vLLM."""
