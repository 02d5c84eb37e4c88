"""Computing a layer by slabs of output rows: the weights loaded once, a workspace of one slab."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flexnn_ncnn.records.plan import Slab, Stage
from flexnn_ncnn.runtime import native

__all__ = ["SlabViews", "forward_chain", "forward_slabs", "slab_views"]

# ncnn begins every channel of its own blobs at such an address (mat.h, cstep)
_CHANNEL_ALIGNMENT_BYTES = 16


@dataclass(frozen=True, slots=True)
class SlabViews:
    """One slab with the rows it reads and the rows it writes, as blobs in the memory of the whole ones.

    Attributes:
        slab: which rows.
        bottom: what it reads, before padding.
        top: what it writes.
        reads_aligned: `bottom` begins as ncnn's own blobs do.
        writes_aligned: `top` does.
    """

    slab: Slab
    bottom: native.Mat
    top: native.Mat
    reads_aligned: bool
    writes_aligned: bool


def slab_views(slabs: Sequence[Slab], bottom: native.Mat, top: native.Mat) -> list[SlabViews]:
    """The slabs of a layer from `bottom` to `top`, or to those channels of it that the layer computes."""
    views = []
    for slab in slabs:
        reads, writes = native.rows_of(bottom, slab.first, slab.last), native.rows_of(top, slab.begin, slab.end)
        views.append(SlabViews(slab, reads, writes, _is_aligned(reads), _is_aligned(writes)))
    return views


def _is_aligned(mat: native.Mat) -> bool:
    """Whether aligned instructions may be used on every channel, as some activations do."""
    return native.data_address(mat) % _CHANNEL_ALIGNMENT_BYTES == 0


def forward_slabs(
    loaded: native.LoadedLayer,
    views: Sequence[SlabViews],
    pad_value: float,
    option: native.Option,
) -> None:
    """Compute a layer slab by slab.

    Args:
        loaded: the layer, loaded without padding.
        views: slabs in any order; together they cover the output, which is written in place.
        pad_value: what padding is filled with.
        option: for the padded copies.
    """
    for view in views:
        slab, rows = view.slab, view.bottom
        if slab.is_padded:
            rows = native.padded(rows, slab.above, slab.below, slab.left, slab.right, pad_value, option)
        elif not view.reads_aligned:
            rows = native.copy_of(rows)
        _forward_into(loaded, rows, view.top, view.writes_aligned)
        del rows


def _forward_into(loaded: native.LoadedLayer, rows: native.Mat, top: native.Mat, is_aligned: bool) -> None:
    computed = native.same_memory(top) if is_aligned else native.empty_mat()
    loaded.forward(rows, computed)
    if computed.elempack != top.elempack:  # ncnn packs by the part's own number of outputs
        native.repack(computed, top)
    elif not is_aligned:
        native.copy_blob(computed, top)


def forward_chain(
    loaded: Sequence[native.LoadedLayer],
    stages: Sequence[Stage],
    bottom: native.Mat,
    top: native.Mat,
    option: native.Option,
) -> None:
    """Compute several layers in a row, slab by slab through all of them.

    Args:
        loaded: the layers, loaded without padding.
        stages: what each computes of every slab.
        bottom: the whole input of the first.
        top: the whole output of the last; written in place.
        option: for the padded copies.
    """
    for number in range(len(stages[0].slabs)):
        rows = native.rows_of(bottom, stages[0].slabs[number].first, stages[0].slabs[number].last)
        if not stages[0].slabs[number].is_padded and not _is_aligned(rows):
            rows = native.copy_of(rows)
        for layer, stage in zip(loaded, stages, strict=True):
            slab = stage.slabs[number]
            if slab.is_padded:
                rows = native.padded(rows, slab.above, slab.below, slab.left, slab.right, stage.pad_value, option)
            if stage is stages[-1]:
                target = native.rows_of(top, slab.begin, slab.end)
                _forward_into(layer, rows, target, _is_aligned(target))
            else:
                computed = native.empty_mat()
                layer.forward(rows, computed)
                rows = computed
                del computed  # or it would stay beside its padded copy
        del rows
