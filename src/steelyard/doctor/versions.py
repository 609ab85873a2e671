"""Versions as packages, kernels and drivers write them: compared by their numbers. Pure."""

from __future__ import annotations

import re
from itertools import zip_longest

OPERATORS = ("===", "==", "~=", "!=", ">=", "<=", ">", "<")


def numbers(version: str) -> tuple[int, ...]:
    """The first numbers: "2.6.0+cu124" is (2, 6, 0), "hl-1.18.0-fw-53" is (1, 18, 0)."""
    matched = re.search(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in matched[0].split(".")) if matched else ()


def compared(one: str, other: str) -> int:
    """-1, 0 or 1: by numbers, missing ones are 0."""
    for a, b in zip_longest(numbers(one), numbers(other), fillvalue=0):
        if a != b:
            return -1 if a < b else 1
    return 0


def older(version: str, than: str) -> bool:
    return compared(version, than) < 0


def within(version: str, at_least: str, below: str) -> bool:
    """at_least <= version < below; an empty bound is none."""
    return not (at_least and older(version, at_least)) and not (below and not older(version, below))


def release(version: str, parts: int = 2) -> str:
    """The first numbers: release("2.6.0+cu124") is "2.6"."""
    return ".".join(str(n) for n in numbers(version)[:parts])


def satisfies(version: str, wanted: str) -> bool:
    """Whether a version is within "==2.1.*" or ">=2.0,<3"; what is not understood is satisfied."""
    return all(_one(version, part.strip()) for part in wanted.split(",") if part.strip())


def _one(version: str, part: str) -> bool:
    operator = next((o for o in OPERATORS if part.startswith(o)), None)
    if operator is None or not numbers(part):
        return True
    other = part[len(operator) :].strip()
    order, width = compared(version, other), len(numbers(other))
    starts = numbers(version)[:width] == numbers(other)
    return {
        "==": starts if other.endswith(".*") else order == 0,
        "===": order == 0,
        "!=": not (starts if other.endswith(".*") else order == 0),
        "~=": order >= 0 and numbers(version)[: width - 1] == numbers(other)[: width - 1],
        ">=": order >= 0,
        "<=": order <= 0,
        ">": order > 0,
        "<": order < 0,
    }[operator]


def requirement(line: str) -> tuple[str, str] | None:
    """("torch", "==2.1.2") of a line of Requires-Dist; None with another marker, or without a version."""
    text, _, marker = line.partition(";")
    if marker and not re.fullmatch(r"""\s*python_version\s*>=\s*["']3\.\d["']\s*""", marker):
        return None
    matched = re.match(r"\s*([A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?\s*\(?([^)]*)\)?\s*$", text)
    if not matched or not matched[2].strip():
        return None
    return re.sub(r"[-_.]+", "-", matched[1]).lower(), matched[2].strip()
