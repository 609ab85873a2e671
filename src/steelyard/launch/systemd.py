"""Words as systemd reads them in a unit (systemd.syntax(7), systemd.service(5) on command lines). Pure."""

from __future__ import annotations


def quoted(word: str, command: bool = False) -> str:
    """One word as systemd reads it; in a command a $ would be a variable. Each character means itself."""
    plain = escaped(word.replace("\\", "\\\\").replace('"', '\\"'))
    plain = plain.replace("$", "$$") if command else plain
    return plain if plain and not set(plain) & set(" \t'\"\\;*?#") else f'"{plain}"'


def escaped(text: str) -> str:
    """Without specifiers (%) and control characters."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text).replace("%", "%%")
