"""Sizes and durations as people write and read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vgcomp import units
from vgcomp.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("6GB", 6_000_000_000),
        ("512MiB", 512 * 2**20),
        ("8G", 8_000_000_000),
        ("8g", 8_000_000_000),
        ("1.5 GiB", 3 * 2**29),
        (" 4096 ", 4096),
        ("1.1GB", 1_100_000_000),
        (".5kib", 512),
        ("2TB", 2 * 10**12),
        (12345, 12345),
    ],
)
def test_reads_sizes(text, size):
    assert units.parse_bytes(text) == size


@pytest.mark.parametrize(
    "text", ["six", "", "6 parsecs", "-1GB", "1e9", "6GB6", "GB", "0x10", "1,5GB", "inf", "nan", "٣GB"]
)
def test_rejects_what_is_no_size_and_says_what_is(text):
    with pytest.raises(UsageError, match="for example 6GB") as caught:
        units.parse_bytes(text)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["0", "0GB", 0, -5, "0.1"])
def test_rejects_nothing(value):
    with pytest.raises(UsageError, match="more than 0"):
        units.parse_bytes(value)


@given(st.integers(min_value=1, max_value=2**50))
def test_plain_numbers_are_exact(n):
    assert units.parse_bytes(str(n)) == n


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (1023.9 * 2**20, "1.00 GiB"),
        (12_680_000_000, "11.8 GiB"),
        (999 * 2**20, "999 MiB"),
        (-3 * 2**30, "-3.00 GiB"),
    ],
)
def test_formats_bytes(n, text):
    assert units.format_bytes(n) == text


def test_formats_decimal_bytes():
    assert units.format_bytes(8_000_000_000, binary=False) == "8.00 GB"


@given(st.floats(min_value=1024, max_value=2**45))
def test_formatted_bytes_read_back_to_three_digits(n):
    assert units.parse_bytes(units.format_bytes(n)) == pytest.approx(n, rel=6e-3)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (3.2e-9, "3.20 ns"),
        (12.34e-6, "12.3 µs"),
        (0.9999, "1.00 s"),
        (0.0123, "12.3 ms"),
        (59.94, "59.9 s"),
        (125, "2 min 05 s"),
    ],
)
def test_formats_seconds(seconds, text):
    assert units.format_seconds(seconds) == text


def test_formats_counts():
    assert units.format_count(1.525e12, "FLOPs") == "1.52 TFLOPs"
    assert units.format_count(12) == "12"
