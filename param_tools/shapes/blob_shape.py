"""The size of a blob."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["BlobShape"]


@dataclass(frozen=True, slots=True)
class BlobShape:
    """Size of a blob in ncnn's terms; axes a blob does not have are 1.

    Attributes:
        dims: number of axes, 1 to 4: (w), (h, w), (c, h, w) or (c, d, h, w).
        w: innermost extent.
        h: rows.
        d: depth, 4 axes only.
        c: channels, 3 or 4 axes.
    """

    dims: int
    w: int
    h: int = 1
    d: int = 1
    c: int = 1

    @classmethod
    def from_numpy(cls, shape: Sequence[int]) -> BlobShape:
        """The blob that an array of `shape`, outermost axis first, becomes.

        Raises:
            ValueError: not 1 to 4 axes of at least one element each.
        """
        if not 1 <= len(shape) <= 4 or min(shape) < 1:
            raise ValueError(f"no blob has the shape {tuple(shape)}")
        names = ("w", "hw", "chw", "cdhw")[len(shape) - 1]
        return cls(len(shape), **dict(zip(names, map(int, shape), strict=True)))

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.numpy_shape)

    @property
    def numpy_shape(self) -> tuple[int, ...]:
        """The shape of `numpy.array(mat)`: outermost axis first."""
        return ((self.w,), (self.h, self.w), (self.c, self.h, self.w), (self.c, self.d, self.h, self.w))[self.dims - 1]
