"""Sizes in bytes, read strictly and printed shortly: the one parser for every budget and limit."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from numbers import Integral

from param_tools.errors import FlexnnError

__all__ = ["SizeError", "format_budget", "format_bytes", "parse_size"]

_FACTORS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_ACCEPTED = "give a positive number of bytes, or a number with kB, MB, GB, KiB, MiB or GiB, such as 100MB or 64MiB"
# At most 19 digits on either side: enough for every size below 2^63, and nothing to compute for ever on.
_SIZE = re.compile(r"\s*([0-9]{1,19}(?:\.[0-9]{1,19})?)\s*([a-z]*)\s*", re.ASCII | re.IGNORECASE)
_LIMIT_BYTES = 2**63


class SizeError(FlexnnError):
    """Something given as a size in bytes that is not one."""

    exit_code = 2


def parse_size(text: str | int) -> int:
    """A size in bytes from what a person writes.

    A plain number is bytes; `MB` is 10^6 bytes and `MiB` 2^20, case-blind (`mb` is not bits). A fraction of a byte is
    dropped, because a budget must not grow by being read.

    Args:
        text: such as "100MB", "64 MiB", "1.5GB", "4096" or 4096.

    Returns:
        The size in bytes, at least 1 and below 2^63.

    Raises:
        SizeError: anything else, NaN, infinity, zero, negative numbers and booleans included.
    """
    if isinstance(text, str):
        found = _SIZE.fullmatch(text)
        if found is None or found[2].lower() not in _FACTORS:
            raise SizeError(f"{text[:80]!r} is not a size", hint=_ACCEPTED)
        size_bytes = int(Fraction(found[1]) * _FACTORS[found[2].lower()])
    elif isinstance(text, Integral) and not isinstance(text, bool):
        size_bytes = int(text)
    else:
        raise SizeError(f"a size cannot be a {type(text).__name__}", hint=_ACCEPTED)
    if size_bytes < 1:
        raise SizeError("a size must be at least one byte", hint=_ACCEPTED)
    if size_bytes >= _LIMIT_BYTES:
        raise SizeError("a size must be below 2^63 bytes", hint=_ACCEPTED)
    return size_bytes


def format_bytes(count_bytes: int) -> str:
    """A count of bytes for people, rounded to one decimal: "31.2 MB"; a negative one keeps its sign."""
    number, unit = _scaled(abs(count_bytes), ROUND_HALF_EVEN)
    return f"{'-' if count_bytes < 0 else ''}{number} {unit}"


def format_budget(count_bytes: int) -> str:
    """The shortest size that `parse_size` reads as `count_bytes` or up to a tenth of a unit more: "31.3MB".

    Rounded up, so that the smallest budget an error names does work when it is typed in.
    """
    number, unit = _scaled(count_bytes, ROUND_CEILING)
    return f"{number}{unit}"


def _scaled(count_bytes: int, rounding: str) -> tuple[str, str]:
    """`count_bytes` as a number and the largest decimal unit in which it is at least one."""
    if count_bytes < 1000:
        return str(count_bytes), "B"
    for power, unit in ((3, "kB"), (6, "MB"), (9, "GB")):
        number = Decimal(count_bytes).scaleb(-power).quantize(Decimal("0.1"), rounding=rounding)
        if number < 1000:  # asked after rounding: 999,950 bytes are 1.0 MB, not 1000.0 kB
            return str(number), unit
    return str(Decimal(count_bytes).scaleb(-12).quantize(Decimal("0.1"), rounding=rounding)), "TB"
