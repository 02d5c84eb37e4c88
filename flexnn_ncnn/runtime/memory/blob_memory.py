"""Blobs over memory of ours: in the arena, or on their own."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flexnn_ncnn.records.layout import OVERREAD_BYTES, BlobLayout, part_view
from flexnn_ncnn.runtime import native

__all__ = ["LIST_MODES", "Blob", "PartTarget", "aligned_bytes", "output_mat"]

# modes (see `flexnn_ncnn.records.plan.Step`) in which a layer is given a list of outputs to write to
LIST_MODES = ("list", "list_4d")

_ALIGNMENT_BYTES = 64


def aligned_bytes(size_bytes: int) -> npt.NDArray[np.uint8]:
    """Uninitialised memory of at least `size_bytes`, with room for over-reads, aligned for packed blobs."""
    memory = np.empty(size_bytes + OVERREAD_BYTES + _ALIGNMENT_BYTES, np.uint8)
    shift = -memory.ctypes.data % _ALIGNMENT_BYTES
    return memory[shift : shift + size_bytes + OVERREAD_BYTES]


class Blob:
    """A blob at a fixed place; its Mat always points there.

    Args:
        memory: contiguous bytes, kept alive by the blob.
        offset_bytes: where the blob begins.
        layout: how it lies there.
        allocator: what layers that write to it allocate from, if anything.
    """

    __slots__ = ("_allocator", "_memory", "_offset_bytes", "layout", "mat")

    def __init__(
        self,
        memory: npt.NDArray[np.uint8],
        offset_bytes: int,
        layout: BlobLayout,
        allocator: native.ScratchAllocator | None = None,
    ) -> None:
        self._memory, self._offset_bytes, self.layout, self._allocator = memory, offset_bytes, layout, allocator
        self.mat = self.fresh_mat()

    @property
    def allocator(self) -> native.ScratchAllocator | None:
        """What layers that write to it allocate from."""
        return self._allocator

    @classmethod
    def alone(cls, layout: BlobLayout, allocator: native.ScratchAllocator | None = None) -> Blob:
        """A blob in memory of its own."""
        return cls(aligned_bytes(layout.size_bytes), 0, layout, allocator)

    def fresh_mat(self) -> native.Mat:
        """A new Mat over the blob: ncnn may replace what a Mat points to."""
        return native.blob_view(self._memory, self._offset_bytes, self.layout, allocator=self._allocator)

    def bytes(self) -> npt.NDArray[np.uint8]:
        """The blob's memory, channel gaps included."""
        return self._memory[self._offset_bytes : self._offset_bytes + self.layout.size_bytes]

    def part(self, axis: str, begin: int, end: int) -> PartTarget:
        """Where the values [begin, end) along `axis` are to be written."""
        view = part_view(self.layout, axis, begin, end)
        if view is None:
            return PartTarget(self, axis, begin, end, None)
        at = self._offset_bytes + view.offset_bytes
        mat = native.blob_view(self._memory, at, view.layout, view.cstep, self._allocator)
        return PartTarget(self, axis, begin, end, mat)


class PartTarget:
    """The place of one slice's output within the whole blob.

    A layer writes straight into it where the slice's values lie side by side and are packed as the whole is;
    otherwise it writes to memory of its own and `store` copies.
    """

    __slots__ = ("_address", "_axis", "_begin", "_end", "_mat", "_whole")

    def __init__(self, whole: Blob, axis: str, begin: int, end: int, mat: native.Mat | None) -> None:
        self._whole, self._axis, self._begin, self._end, self._mat = whole, axis, begin, end, mat
        self._address = 0 if mat is None else native.data_address(mat)

    @property
    def mat(self) -> native.Mat:
        """What to pass as output; `store` it afterwards."""
        return native.empty_mat() if self._mat is None else native.same_memory(self._mat)

    def store(self, computed: native.Mat) -> None:
        """Bring a slice's output to its place, if it is not there already."""
        if self._mat is not None:
            if computed.elempack != self._mat.elempack:  # ncnn packs by the slice's own number of outputs
                native.repack(computed, native.same_memory(self._mat))
            elif native.data_address(computed) != self._address:  # an int8 layer's "fresh" output
                native.copy_blob(computed, self._mat)
            return
        whole, part = native.array_view(self._whole.mat), native.array_view(computed)
        if part.shape[-1] != whole.shape[-1] or self._axis != "w":
            raise native.NcnnError(
                f"a slice of {part.shape} along {self._axis!r} does not fit a blob of {whole.shape}",
                hint="report this: the plan cuts where the blob's packing does not allow it",
            )
        np.copyto(whole[..., self._begin : self._end, :], part)


def output_mat(blob: Blob, mode: str) -> native.Mat:
    """What to pass as an output of a layer with several blobs: it must be what the layer would create."""
    mat = blob.fresh_mat()
    if mode == "list_4d" and mat.dims == 3:
        mat.dims = 4
    return mat
