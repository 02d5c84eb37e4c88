"""How busy the machine was with other things while something was timed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

__all__ = ["LoadMeter", "MachineLoad", "running_now"]

_LOADAVG = Path("/proc/loadavg")
# Of the CPUs that the timed threads leave free, others may use this share before times suffer.
_BEARABLE = 0.5


@dataclass(frozen=True, slots=True)
class MachineLoad:
    """Load of the machine during a measurement.

    Attributes:
        load_average: of the minute before it, as the system tells it, what ran then included; None where it does not.
        others_running: threads of other processes that ran or wanted to, on average over looks between inferences;
            None where the system does not tell.
        cpus: CPUs that this process may use.
        busy: whether others took so much that times say little.
    """

    load_average: float | None
    others_running: float | None
    cpus: int
    busy: bool


class LoadMeter:
    """Looks at the machine's load between the things that are timed.

    Args:
        look: tells how many threads run now, this one included; None where the system does not tell.
    """

    def __init__(self, look: Callable[[], int | None] | None = None) -> None:
        self._look = look or running_now
        self._average = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        self._others: list[int] = []

    def look(self) -> None:
        """Look once, while nothing of ours computes."""
        running = self._look()
        if running is not None:
            self._others.append(max(0, running - 1))

    def load(self, threads: int) -> MachineLoad:
        """What was seen.

        Args:
            threads: how many the timed code computed on.
        """
        others = fmean(self._others) if self._others else None
        known = others if others is not None else self._average
        free = max(1, _usable_cpus() - threads)
        busy = known is not None and known > _BEARABLE * free
        return MachineLoad(self._average, others, _usable_cpus(), busy)


def running_now() -> int | None:
    """Threads that run or want to at this moment, as /proc/loadavg tells it."""
    try:
        return int(_LOADAVG.read_text(encoding="ascii").split()[3].split("/")[0])
    except (OSError, ValueError, IndexError):
        return None


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
