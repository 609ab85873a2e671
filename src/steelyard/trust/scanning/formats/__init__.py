"""Formats that hold no pickle: headers, graphs, descriptions, templates. Parsed, never loaded."""
