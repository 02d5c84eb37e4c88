"""How many slices, and where: bytes to cuts, nothing else."""

from __future__ import annotations

__all__ = ["cuts"]


def cuts(
    units: int, granularity: int, unit_bytes: int, max_bytes: int, least_units: int = 1
) -> tuple[tuple[int, int], ...]:
    """Distributes units over as few slices of at most `max_bytes` as possible, evenly.

    Args:
        units: how many there are.
        granularity: cuts lie at multiples of this.
        unit_bytes: bytes of one unit.
        max_bytes: bytes a slice should not exceed; one granule, or `least_units`, may.
        least_units: no slice is smaller, except the only one.

    Returns:
        Half-open ranges that cover [0, units) in order, none empty; all but the last are multiples of
        `granularity`, and the last is smaller than a granule only when `units` forces it.

    Raises:
        ValueError: units, granularity, max_bytes or least_units below 1, or negative unit_bytes.
    """
    if min(units, granularity, max_bytes, least_units) < 1 or unit_bytes < 0:
        raise ValueError(
            f"cannot cut {units} units of {unit_bytes} bytes at multiples of {granularity} "
            f"into slices of {max_bytes} bytes and {least_units} units"
        )
    if units * unit_bytes <= max_bytes:
        return ((0, units),)
    least_granules = -(-least_units // granularity)
    granules = -(-units // granularity)
    per_slice = max(max_bytes // (unit_bytes * granularity), least_granules, 1)
    count = -(-granules // per_slice)
    while True:
        ends = [min(granules * (i + 1) // count * granularity, units) for i in range(count)]
        ranges = tuple(zip([0, *ends[:-1]], ends, strict=True))
        if count == 1 or min(end - begin for begin, end in ranges) >= min(least_units, units):
            return ranges
        count -= 1
