"""Computing a layer by slabs of output rows: the weights loaded once, a workspace of one slab."""

from __future__ import annotations

from collections.abc import Sequence

from flexnn_ncnn.plan import Slab
from flexnn_ncnn.runtime import native

__all__ = ["forward_slabs"]


def forward_slabs(
    loaded: native.LoadedLayer,
    slabs: Sequence[Slab],
    pad_value: float,
    bottom: native.Mat,
    top: native.Mat,
    option: native.Option,
) -> None:
    """Compute `top` from `bottom`, slab by slab.

    Args:
        loaded: the layer, loaded without padding.
        slabs: rows in any order; together they cover `top`.
        pad_value: what padding is filled with.
        bottom: the whole input.
        top: the whole output, or the channels of it that the layer computes; written in place.
        option: for the padded copies.
    """
    for slab in slabs:
        rows = native.rows_of(bottom, slab.first, slab.last)
        if slab.is_padded:
            rows = native.padded(rows, slab.above, slab.below, slab.left, slab.right, pad_value, option)
        target = native.rows_of(top, slab.begin, slab.end)
        computed = native.same_memory(target)
        loaded.forward(rows, computed)
        if computed.elempack != target.elempack:  # ncnn packs by the part's own number of outputs
            native.repack(computed, target)
