"""From a few measurements to one figure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, quantiles

from flexnn_ncnn.records.profile import Linear

__all__ = ["lasting", "line", "spread"]


def lasting(passes: Sequence[Sequence[float]]) -> float:
    """What something takes in the quietest pass, of each of which the median counts.

    A machine that is shared is slower for seconds on end: whole passes are, not single samples.
    """
    return min(median(samples) for samples in passes)


def line(few: int, few_cost: float, many: int, many_cost: float) -> Linear:
    """A cost through two measurements; neither what no unit costs nor what one costs more is below 0."""
    if few == many:
        return Linear(0.0, many_cost / many) if many > 1 else Linear(many_cost, 0.0)
    slope = min(max(0.0, (many_cost - few_cost) / (many - few)), many_cost / many)
    # rounded, a share of the whole times its units may be a little more than the whole
    return Linear(max(0.0, many_cost - slope * many), slope)


def spread(seconds: Sequence[float]) -> float:
    """Distance of the quartiles over the median; 0 for a single measurement."""
    if len(seconds) < 2:
        return 0.0
    first, middle, third = quantiles(seconds, n=4, method="inclusive")
    return (third - first) / middle if middle > 0 else 0.0
