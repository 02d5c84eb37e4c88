"""What the process holds, as the kernel counts it: resident set and its peak, in bytes (Linux)."""

from __future__ import annotations

import mmap
import re
from contextlib import suppress
from functools import cache
from pathlib import Path

__all__ = [
    "GrowthMeter",
    "is_emulated",
    "large_file_pages_bytes",
    "peak_bytes",
    "peak_can_restart",
    "peak_is_exact",
    "reset_peak",
    "resident_bytes",
]

_STATUS = Path("/proc/self/status")
_MAPS = Path("/proc/self/maps")
_ROLLUP = Path("/proc/self/smaps_rollup")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_MAPPED = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) ", re.MULTILINE)
# Two readings of one process differ by what other threads do meanwhile.
_EMULATOR_BYTES = 32 * 1024 * 1024


class GrowthMeter:
    """How far the resident set has grown at most since this was made: make it when the process is idle.

    Attributes:
        exact: whether the peak could start again and nothing but ours is counted; else the figure may be too large.
    """

    def __init__(self) -> None:
        self._idle_bytes = resident_bytes()
        self.exact = False
        self.restart()

    def idle_again(self) -> None:
        """Let the peak start again; what has come to stay since, such as further imports, counts as idle too."""
        self._idle_bytes = max(self._idle_bytes, resident_bytes())
        self.restart()

    def restart(self) -> None:
        """Let the peak start again from what is resident now; the idle process stays what it was."""
        self.exact = peak_is_exact()

    def peak_bytes(self) -> int:
        """Growth of the peak, in bytes."""
        return max(0, peak_bytes() - self._idle_bytes)

    def held_bytes(self) -> int:
        """Growth of what is resident now, in bytes."""
        return max(0, resident_bytes() - self._idle_bytes)


def resident_bytes() -> int:
    """Resident set of this process: anonymous, mapped file and shared pages (VmRSS)."""
    return _field("VmRSS") - _ballast.size_bytes


def peak_bytes() -> int:
    """Largest resident set since the start or the last `reset_peak` (VmHWM)."""
    return _field("VmHWM") - _ballast.size_bytes


def large_file_pages_bytes() -> int:
    """What of mapped files is mapped as large pages; 0 where the system does not tell."""
    with suppress(OSError):
        for line in _ROLLUP.read_text(encoding="ascii").splitlines():
            if line.startswith("FilePmdMapped:"):
                return int(line.split()[1]) * 1024
    return 0


def reset_peak() -> bool:
    """Let the peak start again from what is resident now; False where the system does not tell it at all.

    Where the kernel cannot forget a peak, the resident set is brought up to it: any growth is a new peak then.
    """
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        if not _tells_peak():
            return False
        _ballast.fill_up()
    return True


def peak_can_restart() -> bool:
    """Whether this system can tell the peak of a part of the process's life."""
    return _tells_peak() and reset_peak()


def peak_is_exact() -> bool:
    """The same, and the peak is that of our memory alone."""
    return peak_can_restart() and not is_emulated()


@cache
def is_emulated() -> bool:
    """Whether an emulator's memory counts as ours: the kernel counts more address space than our maps show.

    Its translated code grows with the code that runs, so peaks say little. What a function that ran before takes from
    the heap can still be told.
    """
    counted = _field("VmSize")
    try:
        maps = _MAPS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    shown = sum(int(end, 16) - int(begin, 16) for begin, end in _MAPPED.findall(maps))
    return counted > shown + _EMULATOR_BYTES


class _Ballast:
    """Memory of no use that lifts the resident set to its peak; what this module tells leaves it out.

    Attributes:
        size_bytes: how much there is.
    """

    def __init__(self) -> None:
        self.size_bytes = 0
        self._memory: mmap.mmap | None = None

    def fill_up(self) -> None:
        """Take as much as is between the resident set and its peak."""
        if self._memory is not None:
            self._memory.close()
        self._memory, self.size_bytes = None, 0
        missing = (_field("VmHWM") - _field("VmRSS")) // mmap.PAGESIZE * mmap.PAGESIZE
        if missing > 0:
            self._memory = mmap.mmap(-1, missing, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            for offset in range(0, missing, mmap.PAGESIZE):
                self._memory[offset] = 1
            self.size_bytes = missing


_ballast = _Ballast()


def _tells_peak() -> bool:
    try:
        return "VmHWM:" in _STATUS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def _field(name: str) -> int:
    try:
        with _STATUS.open(encoding="ascii") as status:
            for line in status:
                if line.startswith(name):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return _maximum_from_rusage()


def _maximum_from_rusage() -> int:
    # macOS and others: the peak of the whole process life is all there is
    import resource
    import sys

    maximum = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return maximum if sys.platform == "darwin" else maximum * 1024
