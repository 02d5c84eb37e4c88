"""What the process holds, as the kernel counts it: resident set and its peak, in bytes (Linux)."""

from __future__ import annotations

from pathlib import Path

__all__ = ["GrowthMeter", "peak_bytes", "peak_is_exact", "reset_peak", "resident_bytes"]

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


class GrowthMeter:
    """How far the resident set has grown at most since this was made: make it when the process is idle.

    Attributes:
        exact: whether the kernel could forget the peak of what went before; else the figure may be too large.
    """

    def __init__(self) -> None:
        self._idle_bytes = resident_bytes()
        self.exact = False
        self._forget_peak()

    def idle_again(self) -> None:
        """Let the peak start again; what has come to stay since, such as further imports, counts as idle too."""
        self._idle_bytes = max(self._idle_bytes, resident_bytes())
        self._forget_peak()

    def _forget_peak(self) -> None:
        """Let the peak start again from what is resident now; the idle process stays what it was."""
        self.exact = _STATUS.exists() and reset_peak()

    def peak_bytes(self) -> int:
        """Growth of the peak, in bytes."""
        return max(0, peak_bytes() - self._idle_bytes)


def resident_bytes() -> int:
    """Resident set of this process: anonymous, mapped file and shared pages (VmRSS)."""
    return _field("VmRSS")


def peak_bytes() -> int:
    """Largest resident set since the start or the last `reset_peak` (VmHWM)."""
    return _field("VmHWM")


def reset_peak() -> bool:
    """Let the peak start again from what is resident now; False where the kernel has no such thing."""
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def peak_is_exact() -> bool:
    """Whether this system can tell and reset the peak."""
    return _STATUS.exists() and reset_peak()


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
