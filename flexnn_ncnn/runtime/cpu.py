"""Where threads run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["born_on_one_cpu", "stay_on_one_cpu"]


def stay_on_one_cpu() -> None:
    """Keep a process that computes on one thread where it is.

    The kernel counts pages for each CPU and adds them up in batches: a process that wanders is said to hold up to a
    megabyte more than it does.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


@contextmanager
def born_on_one_cpu(wanted: bool) -> Iterator[None]:
    """Within the block, processes that are started stay on one CPU from their first page on, where that is wanted."""
    if not wanted or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    stay_on_one_cpu()
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
