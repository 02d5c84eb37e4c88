"""ncnn.Allocator: what a layer allocates while it computes, in memory of ours instead of the C library's heap."""

from __future__ import annotations

import ctypes
from typing import Any

import ncnn
import numpy as np
import numpy.typing as npt

from flexnn_ncnn.records.layout import OVERREAD_BYTES
from flexnn_ncnn.runtime.native.mats import NcnnError, Option

__all__ = ["SCRATCH_ALIGNMENT_BYTES", "ScratchAllocator", "may_call_back"]

SCRATCH_ALIGNMENT_BYTES = 64  # ncnn's NCNN_MALLOC_ALIGN of the widest vectors

# They allocate in threads of OpenMP, which would wait for the interpreter lock that the caller of `forward` holds.
_ALLOCATE_IN_THREADS = ("MultiHeadAttention", "SDPA")

# PyDLL: these are calls into the interpreter, whose lock the caller holds
_capsule_of = ctypes.pythonapi.PyCapsule_New
_capsule_of.restype, _capsule_of.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_address_of = ctypes.pythonapi.PyCapsule_GetPointer
_address_of.restype, _address_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def may_call_back(layer_type: str, num_threads: int) -> bool:
    """Whether a layer of this type may be given an allocator written in Python."""
    return num_threads == 1 or layer_type not in _ALLOCATE_IN_THREADS


class ScratchAllocator(ncnn.PoolAllocator):  # type: ignore[misc]
    """Gives layers the first hole that fits of one region of memory.

    What does not fit comes from elsewhere and is counted. Set a region with `use`, let a layer compute with an Option
    that went through `attach`, and everything the layer allocated is free again. A block that is not, as when a
    traceback still holds it, is never given away.

    Args:
        memory: contiguous bytes; kept alive.

    Attributes:
        peak_bytes: most of the region that was in use since `use`: the highest end of any block.
        overflow_bytes: most bytes at once that ever did not fit.
        missing_bytes: how much larger the region would have had to be at most since this was set to 0.
        events: if a list, every allocation since is appended as +size, every release as -size, as ncnn asked for them.
    """

    def __init__(self, memory: npt.NDArray[np.uint8]) -> None:
        super().__init__()
        self._memory = memory
        self._address = int(memory.ctypes.data)
        self._begin = self._end = self._address
        # blocks in use by address, as (begin, end): few, most often three
        self._blocks: list[tuple[int, int]] = []
        self._others: dict[int, npt.NDArray[np.uint8]] = {}
        self._sizes: dict[int, int] = {}
        self._highest = self._address
        self.overflow_bytes = self.missing_bytes = 0
        self.events: list[int] | None = None

    @property
    def blocks_in_use(self) -> int:
        """How many blocks were not given back yet."""
        return len(self._blocks) + len(self._others)

    @property
    def peak_bytes(self) -> int:
        """Most of the region that was in use since `use`."""
        return self._highest - self._begin

    def attach(self, option: Option) -> Option:
        """Have layers that compute with `option` allocate here; not for loading them: some keep what they get then.

        The allocator must outlive every Mat that was made with the option.
        """
        option.blob_allocator = option.workspace_allocator = self
        return option

    def use(self, offset_bytes: int, size_bytes: int) -> None:
        """From now on allocate in this part of the memory.

        Raises:
            NcnnError: the part lies outside.
        """
        if offset_bytes < 0 or size_bytes < 0 or offset_bytes + size_bytes > self._memory.nbytes:
            raise NcnnError(f"{size_bytes} bytes at {offset_bytes} do not lie in {self._memory.nbytes}")
        begin = self._address + offset_bytes
        self._begin = self._highest = begin + -begin % SCRATCH_ALIGNMENT_BYTES
        self._end = begin + size_bytes

    def fastMalloc(self, size: int) -> Any:  # noqa: N802 - ncnn's name
        """Called by ncnn: `size` bytes, and room for what kernels read past their end."""
        step = (size + OVERREAD_BYTES + SCRATCH_ALIGNMENT_BYTES - 1) & -SCRATCH_ALIGNMENT_BYTES
        at, place = self._begin, 0
        for begin, end in self._blocks:
            if begin - at >= step:
                break
            if end > at:
                at = end
            place += 1
        top = at + step
        if top > self._end:
            at = self._elsewhere(step, top - self._end)
            if not at:
                return None  # ncnn's forward then fails with -100
        else:
            self._blocks.insert(place, (at, top))
            if top > self._highest:
                self._highest = top
        if self.events is not None:
            self._sizes[at] = size
            self.events.append(size)
        return _capsule_of(at, None, None)

    def fastFree(self, capsule: Any) -> None:  # noqa: N802 - ncnn's name
        """Called by ncnn."""
        at = _address_of(capsule, None)
        if self.events is not None:
            self.events.append(-self._sizes.pop(at, 0))
        for place, block in enumerate(self._blocks):
            if block[0] == at:
                del self._blocks[place]
                return
        self._others.pop(at, None)

    def _elsewhere(self, size_bytes: int, beyond_bytes: int) -> int:
        """Address of memory outside the region, 0 if there is none: no C++ code would catch an exception."""
        missing_bytes = beyond_bytes + sum(other.nbytes for other in self._others.values())
        self.missing_bytes = max(self.missing_bytes, missing_bytes)
        try:
            block = np.empty(size_bytes + SCRATCH_ALIGNMENT_BYTES, np.uint8)
        except MemoryError:
            return 0
        at = int(block.ctypes.data)
        at += -at % SCRATCH_ALIGNMENT_BYTES
        self._others[at] = block
        self.overflow_bytes = max(self.overflow_bytes, sum(other.nbytes for other in self._others.values()))
        return at
