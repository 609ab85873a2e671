"""What two prompts have in common at their beginning: keys and values that need not be computed twice."""

from __future__ import annotations


def common_prefix(a: list[int], b: list[int]) -> int:
    """Length of the common beginning; slices compare at the speed of C."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while low < high - 1:
        middle = (low + high) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle)
    return low
