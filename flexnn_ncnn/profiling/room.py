"""How much memory measuring may hold, and what it gives back to stay within that."""

from __future__ import annotations

import sys

from flexnn_ncnn.runtime.memory import process_memory

__all__ = ["MARGIN_BYTES", "Room"]

MARGIN_BYTES = 1_500_000
"""Left free: what the kernel counts late, and pages of code that comes to run."""


class Room:
    """Memory beside what the process holds.

    Args:
        bound_bytes: what may be held beyond the idle process; None for as much as it takes.
        idle_bytes: resident set of the idle process.

    Attributes:
        is_bounded: whether there is a bound.
        gave_back: whether what was free was given back: it has to be faulted in again before something is timed.
        peak_bytes: most that was held beyond the idle process, up to the last call of `note_peak`.
    """

    def __init__(self, bound_bytes: int | None, idle_bytes: int) -> None:
        self._bound_bytes, self._idle_bytes = bound_bytes, idle_bytes
        self.is_bounded = bound_bytes is not None
        self.gave_back = False
        self.peak_bytes = 0

    @property
    def left_bytes(self) -> int:
        """What may be taken now; below 0 where more is held than there should be."""
        if self._bound_bytes is None:
            return sys.maxsize
        return self._bound_bytes - MARGIN_BYTES - (process_memory.resident_bytes() - self._idle_bytes)

    def note_peak(self) -> None:
        """Remember the peak of the resident set, which is to start again."""
        self.peak_bytes = max(self.peak_bytes, process_memory.peak_bytes() - self._idle_bytes)

    def restart_peak(self) -> None:
        """Let the peak start again."""
        self.note_peak()
        process_memory.reset_peak()
