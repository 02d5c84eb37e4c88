"""How ncnn lays a blob out in memory (ncnn src/mat.h: dims, extents, elemsize, elempack, cstep)."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["OVERREAD_BYTES", "WIDEST_ELEMPACK", "BlobLayout", "PartView", "align_up", "part_view"]

# ncnn's kernels may read this many bytes past a blob's end (allocator.h, NCNN_MALLOC_OVERREAD).
OVERREAD_BYTES = 64
# The most values of several channels that ncnn lays side by side, on any machine.
WIDEST_ELEMPACK = 16


def align_up(size: int, alignment: int) -> int:
    """The smallest multiple of `alignment` that is >= `size`."""
    return -(-size // alignment) * alignment


@dataclass(frozen=True, slots=True)
class BlobLayout:
    """Shape and packing of one blob, as the fields of an ncnn Mat.

    Attributes:
        dims: number of dimensions, 1 to 4; unused extents are 1.
        w, h, d, c: extents in elements; the packed one (c, h or w) is divided by `elempack`.
        elemsize: bytes of one packed element (lane bytes times elempack).
        elempack: how many values of the outermost dimension lie side by side.
    """

    dims: int
    w: int
    h: int
    d: int
    c: int
    elemsize: int
    elempack: int

    @property
    def cstep(self) -> int:
        """Elements from one channel to the next; ncnn aligns channels of 3- and 4-d blobs to 16 bytes."""
        plane = self.w * self.h * self.d
        return align_up(plane * self.elemsize, 16) // self.elemsize if self.dims >= 3 else plane

    @property
    def size_bytes(self) -> int:
        """Bytes from the first element to the last, channel gaps included."""
        return self.cstep * self.c * self.elemsize

    @property
    def lane_bytes(self) -> int:
        """Bytes of one scalar value: 4 for fp32 and int32, 2 for fp16 and bf16, 1 for int8."""
        return self.elemsize // self.elempack

    @property
    def packed_extent(self) -> int:
        """Values along the dimension that packing divides: w, h or c."""
        return (self.w, self.h, self.c, self.c)[self.dims - 1] * self.elempack

    def with_elempack(self, elempack: int) -> BlobLayout:
        """The same values packed by `elempack`, which must divide `packed_extent`."""
        extent, rest = divmod(self.packed_extent, elempack)
        if rest:
            raise ValueError(f"{self.packed_extent} values cannot be packed by {elempack}")
        name = ("w", "h", "c", "c")[self.dims - 1]
        return replace(self, elemsize=self.lane_bytes * elempack, elempack=elempack, **{name: extent})

    def with_lane_bytes(self, lane_bytes: int) -> BlobLayout:
        """The same shape with scalars of `lane_bytes` bytes."""
        return replace(self, elemsize=lane_bytes * self.elempack)

    @property
    def numpy_shape(self) -> tuple[int, ...]:
        """Shape of the unpacked blob as numpy sees it, outermost first: (c, d, h, w) without unused dimensions."""
        flat = self.with_elempack(1)
        return {1: (flat.w,), 2: (flat.h, flat.w), 3: (flat.c, flat.h, flat.w)}.get(
            self.dims, (flat.c, flat.d, flat.h, flat.w)
        )


@dataclass(frozen=True, slots=True)
class PartView:
    """Where one part of a blob lies within the whole.

    Attributes:
        offset_bytes: from the whole's first byte.
        layout: the part's own layout.
        cstep: the whole's distance between channels, which the part keeps.
    """

    offset_bytes: int
    layout: BlobLayout
    cstep: int


def part_view(whole: BlobLayout, axis: str, begin: int, end: int) -> PartView | None:
    """The values [begin, end) along `axis` of a blob, as a blob that shares its memory.

    Args:
        whole: layout of the blob.
        axis: "c", "h" or "w", counted in unpacked values.
        begin: first value.
        end: one past the last value.

    Returns:
        None where the part is not a Mat of its own: it cuts packed lanes, or its rows are not side by side.
    """
    packed = axis == ("w", "h", "c", "c")[whole.dims - 1]
    pack = whole.elempack if packed else 1
    if begin % pack or end % pack:
        return None
    begin, count = begin // pack, (end - begin) // pack
    if axis == "c" and whole.dims >= 3:
        return PartView(begin * whole.cstep * whole.elemsize, replace(whole, c=count), whole.cstep)
    if axis == "h" and whole.dims == 2:
        return PartView(begin * whole.w * whole.elemsize, replace(whole, h=count), whole.w * count)
    if axis == "w" and whole.dims == 1:
        return PartView(begin * whole.elemsize, replace(whole, w=count), count)
    return None
