"""Where threads run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["CPUS_VARIABLE", "born_on_one_cpu", "cpu_count", "load_elsewhere", "stay_on_one_cpu", "usable_cpus"]

# CPUs that a process kept on one of them may use for loading, as "0,1,3"
CPUS_VARIABLE = "FLEXNN_CPUS"

_CAPACITY = "/sys/devices/system/cpu/cpu{}/cpu_capacity"


def usable_cpus() -> str:
    """The CPUs this process may use, as `CPUS_VARIABLE` has them; "" where the system does not say."""
    return ",".join(map(str, sorted(os.sched_getaffinity(0)))) if hasattr(os, "sched_getaffinity") else ""


def cpu_count() -> int:
    """How many CPUs computing and loading may use together."""
    own = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    return len(own | _named())


def load_elsewhere() -> None:
    """Let the calling thread run on the CPUs in `CPUS_VARIABLE` that the process itself is not kept on, if any."""
    named = _named()
    if not named or not hasattr(os, "sched_setaffinity"):
        return
    others = named - os.sched_getaffinity(os.getpid())
    with suppress(OSError):  # a CPU that is not there, or not ours any more
        os.sched_setaffinity(0, others or named)


def stay_on_one_cpu() -> None:
    """Keep a process that computes on one thread on one CPU, a big one where there are big and little ones.

    The kernel counts pages for each CPU and adds them up in batches: a process that wanders is said to hold up to a
    megabyte more than it does.
    """
    if hasattr(os, "sched_setaffinity"):
        with suppress(OSError):  # forbidden, as some sandboxes do
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0), key=lambda cpu: (_capacity(cpu), cpu))})


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
        with suppress(OSError):
            os.sched_setaffinity(0, before)


def _named() -> set[int]:
    return {int(word) for word in os.environ.get(CPUS_VARIABLE, "").split(",") if word.isdigit()}


def _capacity(cpu: int) -> int:
    """How much a CPU can do beside the others, 0 where the kernel does not tell."""
    try:
        with open(_CAPACITY.format(cpu), encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0
