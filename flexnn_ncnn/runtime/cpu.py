"""Where threads run."""

from __future__ import annotations

import os

__all__ = ["stay_on_one_cpu"]


def stay_on_one_cpu() -> None:
    """Keep a process that computes on one thread where it is.

    The kernel counts pages for each CPU and adds them up in batches: a process that wanders is said to hold up to a
    megabyte more than it does.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
