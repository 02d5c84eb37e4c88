"""What really happened in the last inference."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Trace"]


@dataclass(slots=True)
class Trace:
    """Counters of one inference; the executor starts them anew each time.

    Attributes:
        seconds: the whole inference.
        load_seconds: reading and transforming streamed weights.
        streamed_bytes: weights read from the file.
    """

    seconds: float = 0.0
    load_seconds: float = 0.0
    streamed_bytes: int = 0

    def restart(self) -> None:
        """Set everything to zero."""
        self.seconds, self.load_seconds, self.streamed_bytes = 0.0, 0.0, 0

    def loaded(self, size_bytes: int, seconds: float) -> None:
        """Count one load."""
        self.load_seconds += seconds
        self.streamed_bytes += size_bytes
