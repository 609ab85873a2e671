"""Times, sizes and counts as people write and read them: no "56 min 60 s", and more never looks like less."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.errors import WrongUse
from steelyard.units import parse_bytes, parse_count, parse_s, show_bytes, show_number, show_s

SECONDS = st.floats(min_value=1e-3, max_value=4e7, allow_nan=False)
SIZES = st.integers(min_value=0, max_value=10**16)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.34, "340 ms"),
        (0.9996, "1.0 s"),
        (9.97, "10 s"),
        (42, "42 s"),
        (59.7, "1 min"),  # was "60 s"
        (72, "1 min 12 s"),
        (99.7, "1 min 40 s"),
        (372, "6 min 12 s"),
        (3419.7, "57 min"),  # was "56 min 60 s"
        (239.6, "4 min"),  # was "3 min 60 s"
        (3599.8, "1 h"),
        (17_999, "5 h"),  # was "4 h 60 min"
        (172_799, "2.0 days"),
        (267_840, "3.1 days"),
    ],
)
def test_a_time_for_people(seconds: float, shown: str) -> None:
    assert show_s(seconds) == shown


@given(SECONDS)
def test_no_part_of_a_time_is_full(seconds: float) -> None:
    parts = re.findall(r"(\d+(?:\.\d)?) (ms|s|min|h|days)", show_s(seconds))
    limits = {"ms": 1000, "s": 60, "min": 60, "h": 48, "days": 10**9}
    assert parts and all(float(number) < limits[unit] for number, unit in parts)
    assert all(float(number) > 0 for number, _ in parts[1:])


@given(SECONDS, SECONDS)
def test_a_longer_time_never_reads_as_shorter(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert parse_s(show_s(low)) <= parse_s(show_s(high))


@given(SECONDS)
def test_a_shown_time_reads_back_within_one_part_in_twenty(seconds: float) -> None:
    back = parse_s(show_s(seconds))
    assert abs(back - seconds) <= max(0.0005, 0.05 * seconds)


@given(SIZES, SIZES)
def test_a_larger_size_never_reads_as_smaller(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert parse_bytes(show_bytes(low)) <= parse_bytes(show_bytes(high))
    assert not re.match(r"1000 ", show_bytes(high)) or show_bytes(high).endswith("TB")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1w", 604800), ("2 weeks", 1209600), ("3 days", 259200), ("1h30m", 5400), ("2 h 10 min", 7800),
     ("90min", 5400), ("800ms", 0.8), ("8h", 28800), ("40", 40), (1.5, 1.5), ("1 hour", 3600)],
)  # fmt: skip
def test_times_as_people_write_them(text: str | float, seconds: float) -> None:
    assert parse_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "count"),
    [("50M", 5e7), ("50m", 5e7), ("1e9", 1e9), ("1.5B", 1.5e9), ("200k", 2e5), ("2T", 2e12), ("1_000", 1e3),
     ("1,000,000", 1e6), (7, 7)],
)  # fmt: skip
def test_counts_as_people_write_them(text: str | float, count: float) -> None:
    assert parse_count(text) == pytest.approx(count)


@pytest.mark.parametrize("parse", [parse_s, parse_bytes, parse_count])
@pytest.mark.parametrize("text", ["", "many", "1.2.3", ".", "1x", "5 5 5", "nan"])
def test_what_is_no_figure_is_said_with_an_example(parse, text: str) -> None:
    with pytest.raises(WrongUse) as error:
        parse(text)
    assert "write it like" in error.value.hint


def test_small_sizes_are_not_zero() -> None:
    assert show_number(3.2e6, "bytes") == "3.2 MB"
