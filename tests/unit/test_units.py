from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexnn_ncnn.units import SizeError, format_budget, format_bytes, parse_size

FACTORS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("1", 1),
        (4096, 4096),
        (np.int64(4096), 4096),
        ("100MB", 100_000_000),
        ("100mb", 100_000_000),
        ("64MiB", 67_108_864),
        ("64 mIb", 67_108_864),
        ("  8 KB ", 8_000),
        ("1.5GB", 1_500_000_000),
        ("0.3KiB", 307),  # 307.2: a fraction of a byte is dropped, never added
        ("9223372036854775807", 2**63 - 1),
        ("0.9999999999999999999TB", 999_999_999_999),  # one more as a float
    ],
)
def test_a_size_is_read_exactly(text: str | int, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes
    assert type(parse_size(text)) is int


BAD_NUMBERS = ["", " ", "MB", "0", "0MB", "-1", "-5MB", "0.0001kB", "0.4", "nan", "NaNMB", "inf", "Infinity", "٣MB"]
BAD_NUMBERS += ["1e6", "1e400", "+5", "1_000", "1,000", ".5MB", "5.MB", "1.2.3MB", "0x10", "ten", "9" * 5000]
BAD_UNITS = ["5XB", "5M", "5K", "5 M B", "5MBit", "5MB\0", "5 \N{KELVIN SIGN}B", "0." + "0" * 5000 + "1GB"]
TOO_LARGE = ["9223372036854775808", "9999999999999999999TiB", 2**63, 10**4000]
NOT_SIZES = [0, -1, -(10**4000), True, False, 1.5, float("nan"), None, b"5MB", [5], np.float32(5), np.True_]


@pytest.mark.parametrize("text", [*BAD_NUMBERS, *BAD_UNITS, *TOO_LARGE, *NOT_SIZES])
def test_everything_else_is_refused_with_the_way_out(text: str | int) -> None:
    with pytest.raises(SizeError, match="such as 100MB or 64MiB") as refused:
        parse_size(text)
    assert refused.value.exit_code == 2
    assert len(str(refused.value)) < 300


@given(st.integers(1, 10**9), st.sampled_from(sorted(FACTORS)), st.sampled_from(["", " ", "  "]), st.booleans())
def test_a_unit_is_its_factor_in_any_case(number: int, unit: str, gap: str, upper: bool) -> None:
    assert parse_size(f"{number}{gap}{unit.upper() if upper else unit.lower()}") == number * FACTORS[unit]


@given(st.text(max_size=40))
def test_any_text_is_a_positive_size_or_a_clear_error(text: str) -> None:
    with contextlib.suppress(SizeError):
        assert parse_size(text) > 0


@given(st.integers(0, 10**12), st.integers(0, 10**6 - 1), st.sampled_from(["kB", "MB"]))
def test_fractions_round_down(whole: int, millionths: int, unit: str) -> None:
    exact_millionths = (whole * 10**6 + millionths) * FACTORS[unit]
    if exact_millionths >= 10**6:
        assert parse_size(f"{whole}.{millionths:06}{unit}") == exact_millionths // 10**6


@pytest.mark.parametrize(
    ("count_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (31_249_000, "31.2 MB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),  # not "1000.0 kB"
        (574_669_036, "574.7 MB"),
        (2**63, "9223372.0 TB"),
        (-2_500_000, "-2.5 MB"),
    ],
)
def test_bytes_are_printed_with_one_decimal(count_bytes: int, text: str) -> None:
    assert format_bytes(count_bytes) == text


@given(st.integers(1, 2**62))
def test_a_printed_budget_can_be_typed_in_and_is_enough(count_bytes: int) -> None:
    again = parse_size(format_budget(count_bytes))
    assert count_bytes <= again <= count_bytes * 1.1 + 1


@given(st.integers(1, 2**62))
def test_a_printed_size_is_within_a_twentieth(count_bytes: int) -> None:
    assert abs(parse_size(format_bytes(count_bytes)) - count_bytes) <= count_bytes / 20
