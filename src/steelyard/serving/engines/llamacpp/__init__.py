"""llama.cpp as an engine, by its C functions."""
