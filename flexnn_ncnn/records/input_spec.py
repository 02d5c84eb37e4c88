"""What a network wants to be fed with, as a record."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["InputSpec"]


@dataclass(frozen=True)
class InputSpec:
    """One blob the caller feeds.

    Attributes:
        blob: its name.
        shape: its extents as a numpy array, outermost first: (channels, height, width) or (width,).
        dtype: "float32", or "int32" for ids.
        ids_below: exclusive upper bound of the ids, 0 for float32.
    """

    blob: str
    shape: tuple[int, ...]
    dtype: str
    ids_below: int = 0
