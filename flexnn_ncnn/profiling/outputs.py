"""How a layer leaves its outputs, found by trying."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from flexnn_ncnn.errors import ProfileError
from flexnn_ncnn.profiling.bench import run_into
from flexnn_ncnn.records.layout import BlobLayout
from flexnn_ncnn.runtime import native
from flexnn_ncnn.runtime.memory.blob_memory import LIST_MODES, Blob
from param_tools.shapes import BlobShape

__all__ = ["Outputs", "discover_outputs"]

# layers that compute each value from the values at its own place alone
_POINTWISE = ("BinaryOp", "Eltwise")
_SENTINEL = np.uint8(0xA5)


@dataclass(frozen=True, slots=True)
class Outputs:
    """How a layer leaves its outputs.

    Attributes:
        mode: see `flexnn_ncnn.records.plan.Step`.
        layouts: how they lie in memory.
    """

    mode: str
    layouts: tuple[BlobLayout, ...]


def discover_outputs(
    layer_type: str, loaded: native.LoadedLayer, bottoms: Sequence[native.Mat], shapes: Sequence[BlobShape | None]
) -> Outputs:
    """Compute a layer until it is clear how it leaves its outputs.

    Args:
        layer_type: ncnn's name of it.
        loaded: the layer, computing with an Option without allocators.
        bottoms: its inputs as it wants them.
        shapes: the outputs' shapes where they can be inferred.

    Raises:
        ProfileError: several outputs or inputs, and no known layout fits.
    """
    if not loaded.takes_one_blob or len(bottoms) != 1 or len(shapes) != 1:
        return _of_several(layer_type, loaded, bottoms, shapes)
    if loaded.works_in_place:
        return Outputs("inplace", (native.layout_of(bottoms[0]),))
    top = native.empty_mat()
    loaded.forward(bottoms[0], top)
    layout = native.layout_of(top)
    if native.data_address(top) == native.data_address(bottoms[0]):
        return Outputs("alias", (layout,))
    del top  # or both outputs would be held
    blob = Blob.alone(layout)
    address = native.data_address(blob.mat)
    loaded.forward(bottoms[0], blob.mat)
    written_in_place = native.data_address(blob.mat) == address
    return Outputs("forward" if written_in_place else "fresh", (layout,))


def _of_several(
    layer_type: str, loaded: native.LoadedLayer, bottoms: Sequence[native.Mat], shapes: Sequence[BlobShape | None]
) -> Outputs:
    """The mode and the layouts in which a layer with several blobs writes to the outputs it is given.

    ncnn copies the list of outputs it is given, so one of another layout would be computed and lost: each candidate
    is filled with a pattern, and the right one has none of it left.
    """
    if any(shape is None for shape in shapes):
        raise ProfileError(
            f"layer {loaded.name!r}: the size of its outputs cannot be inferred",
            hint="layers with several blobs need a known output size",
        )
    lanes = sorted({native.layout_of(mat).lane_bytes for mat in bottoms} | {4}, reverse=True)
    packs = (*native.LANES, 1)
    for lane_bytes in lanes:
        for pack in packs:
            layouts = [_layout(shape, lane_bytes, pack) for shape in shapes if shape is not None]
            for mode in LIST_MODES:
                if _writes_to(loaded, mode, bottoms, layouts):
                    overlays = layer_type in _POINTWISE and _may_overlay(loaded, bottoms, layouts)
                    return Outputs("overlay" if overlays else mode, tuple(layouts))
    raise ProfileError(f"layer {loaded.name!r}: ncnn does not leave its outputs where it is told to")


def _may_overlay(loaded: native.LoadedLayer, bottoms: Sequence[native.Mat], tops: Sequence[BlobLayout]) -> bool:
    """Whether the output may take the memory of either input: all lie alike, and the values come out the same.

    Of three inputs the third is read when the output has been written once.
    """
    if len(tops) != 1 or len(bottoms) > 2 or any(native.layout_of(mat) != tops[0] for mat in bottoms):
        return False
    over = Blob.alone(tops[0])
    run_into(loaded, "list", bottoms, [over])
    apart = _checksum(over)
    for position in range(len(bottoms)):
        native.copy_blob(bottoms[position], over.mat)
        mats = [over.mat if i == position else mat for i, mat in enumerate(bottoms)]
        loaded.forward_list(mats, [over.mat])
        if _checksum(over) != apart:
            return False
    return True


def _checksum(blob: Blob) -> int:
    return crc32(np.ascontiguousarray(native.array_view(blob.mat)).data)


def _layout(shape: BlobShape, lane_bytes: int, most_elempack: int) -> BlobLayout:
    """The shape packed as far as it divides: Slice packs each of its outputs for itself."""
    flat = BlobLayout(shape.dims, shape.w, shape.h, shape.d, shape.c, lane_bytes, 1)
    packs = (pack for pack in native.LANES if pack <= most_elempack and flat.packed_extent % pack == 0)
    return flat.with_elempack(next(packs, 1))


def _writes_to(
    loaded: native.LoadedLayer, mode: str, bottoms: Sequence[native.Mat], layouts: Sequence[BlobLayout]
) -> bool:
    blobs = [Blob.alone(layout) for layout in layouts]
    for blob in blobs:
        blob.bytes().fill(_SENTINEL)
    run_into(loaded, mode, bottoms, blobs)
    # the pattern would have to be a computed value, everywhere in a row of 16 bytes, to be mistaken
    return all(not (blob.bytes()[:16] == _SENTINEL).all() for blob in blobs)
