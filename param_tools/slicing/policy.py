"""How many slices, and where: bytes to cuts, nothing else."""

from __future__ import annotations

__all__ = ["cuts"]


def cuts(
    units: int, granularity: int, unit_bytes: int, max_bytes: int, least_units: int = 1, odd: bool = False
) -> tuple[tuple[int, int], ...]:
    """Distributes units over as few slices of at most `max_bytes` as possible, evenly.

    Args:
        units: how many there are.
        granularity: cuts lie at multiples of this.
        unit_bytes: bytes of one unit.
        max_bytes: bytes a slice should not exceed; one granule, or `least_units`, may.
        least_units: no slice is smaller, except the only one.
        odd: every slice holds an odd number of granules; `units` must be an odd number of them.

    Returns:
        Half-open ranges that cover [0, units) in order, none empty; all but the last are multiples of
        `granularity`, and the last is smaller than a granule only when `units` forces it.

    Raises:
        ValueError: units, granularity, max_bytes or least_units below 1, negative unit_bytes, or `odd` with an even
            number of granules.
    """
    granules = -(-units // granularity) if granularity > 0 else 0
    if min(units, granularity, max_bytes, least_units) < 1 or unit_bytes < 0 or (odd and granules % 2 == 0):
        raise ValueError(
            f"cannot cut {units} units of {unit_bytes} bytes at {'odd ' if odd else ''}multiples of {granularity} "
            f"into slices of {max_bytes} bytes and {least_units} units"
        )
    if units * unit_bytes <= max_bytes:
        return ((0, units),)
    least_granules = -(-least_units // granularity)
    most_granules = max(max_bytes // (unit_bytes * granularity), least_granules, 1)
    count, step = -(-granules // most_granules), 1
    if odd:
        # an odd number of odd slices: one granule each, the others in pairs
        count, step = -(-granules // (most_granules - 1 + most_granules % 2)) | 1, 2
    while True:
        ranges = _spread(units, granularity, count, granules, step)
        if count == 1 or min(end - begin for begin, end in ranges) >= min(least_units, units):
            return ranges
        count -= step


def _spread(units: int, granularity: int, count: int, granules: int, step: int) -> tuple[tuple[int, int], ...]:
    """`count` ranges of nearly equal numbers of granules, equal ones modulo `step`."""
    spare = (granules - count) // step
    sizes = [1 + step * (spare * (i + 1) // count - spare * i // count) for i in range(count)]
    ends = [min(granularity * sum(sizes[: i + 1]), units) for i in range(count)]
    return tuple(zip([0, *ends[:-1]], ends, strict=True))
