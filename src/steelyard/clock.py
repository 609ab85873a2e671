"""The time of day as documents have it."""

from __future__ import annotations

import time


def utc_now() -> str:
    """RFC 3339 in UTC, to the second: 2026-11-30T22:01:02Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
