"""The smallest memory limit that a contestant survives, found by halving."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from eval.contest import Run

__all__ = ["smallest_limit"]

# nobody gets by with less of what he would take
_LEAST_SHARE = 1 / 16
_LEAST_BYTES = 1_000_000


def smallest_limit(attempt: Callable[[int], Run | None], taken_bytes: int, percent: int) -> dict[str, Any] | None:
    """The smallest limit survived, on a scale of equal steps.

    Args:
        attempt: runs within a limit; None where that was not survived.
        taken_bytes: what was held at most without one.
        percent: how far the limit may be from the largest that is not survived.

    Returns:
        "survived_bytes"; "failed_bytes", the largest that was not, or None; "latency_ms" and "read_bytes" of the
        last inference within it. None where not even all that was taken before is survived.
    """
    high = max(int(taken_bytes * 1.05), _LEAST_BYTES)
    low = max(int(taken_bytes * _LEAST_SHARE), _LEAST_BYTES // 2)
    best: Run | None = None
    failed = None
    while high > low * (1 + percent / 100):
        middle = int((low * high) ** 0.5)
        run = attempt(middle)
        if run is None:
            low = failed = middle
        else:
            high, best = middle, run
    if best is None:
        best = attempt(high)
    if best is None:
        return None
    return {
        "survived_bytes": high,
        "failed_bytes": failed,
        "latency_ms": (best.warm_seconds or [best.cold_seconds])[-1] * 1e3,
        "read_bytes": best.warm_read_bytes if best.warm_seconds else best.cold_read_bytes,
    }
