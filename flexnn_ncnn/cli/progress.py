"""Progress on stderr."""

from __future__ import annotations

from types import TracebackType
from typing import Any

__all__ = ["ProgressBars"]


class ProgressBars:
    """A bar on stderr for each thing in progress, one after the other; none where stderr is no terminal.

    Args:
        disable: show none anywhere.
        unit: what is counted where it comes in thousands, such as "B".
    """

    def __init__(self, *, disable: bool, unit: str = "") -> None:
        self._disable = True if disable else None  # tqdm takes None for "unless it is a terminal"
        self._unit = unit
        self._what = ""
        self._bar: Any = None

    def update(self, what: str, done: int, of: int) -> None:
        """Moves the bar of `what`, beginning a new one where it is not the last one's."""
        from tqdm import tqdm

        if what != self._what:
            self._close()
            self._what = what
            self._bar = tqdm(
                desc=what,
                total=of,
                unit=self._unit or "it",
                unit_scale=bool(self._unit),
                disable=self._disable,
                delay=0.5,
                leave=False,
            )
        self._bar.update(done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> ProgressBars:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
