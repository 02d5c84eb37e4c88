"""Settings for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

try:
    from hypothesis import settings
except ImportError:  # emulated boards have none
    settings = None

# Before ncnn is loaded: threads that spin while they wait take ten times as long where processors are shared.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

if settings is not None:
    # how long an example takes says nothing where processors are shared
    settings.register_profile("usual", deadline=None)
    settings.register_profile("slow", max_examples=10 * settings().max_examples, deadline=None)
    settings.load_profile("usual")


def _keep_to_one_cpu() -> None:
    """Each of several workers has a CPU of its own: what one measures, the others do not disturb."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and hasattr(os, "sched_setaffinity"):
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cpus[int(worker.removeprefix("gw")) % len(cpus)]})


_keep_to_one_cpu()


@pytest.fixture(autouse=True)
def _all_cpus() -> Iterator[None]:
    """A model that runs on one thread keeps its process on one CPU: no test leaves the next ones there."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    yield
    if before and os.sched_getaffinity(0) != before:
        os.sched_setaffinity(0, before)
