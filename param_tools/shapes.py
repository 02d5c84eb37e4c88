"""Blob shapes: what each layer makes of its inputs' sizes."""

from __future__ import annotations

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

    @property
    def count(self) -> int:
        """Number of elements."""
        return self.w * self.h * self.d * self.c

    @property
    def numpy_shape(self) -> tuple[int, ...]:
        """The shape of `numpy.array(mat)`: outermost first."""
        return ((self.w,), (self.h, self.w), (self.c, self.h, self.w), (self.c, self.d, self.h, self.w))[self.dims - 1]
