"""Steps as functions of the blobs that exist: those that do more than call one layer once."""

from __future__ import annotations

from collections.abc import Callable

from flexnn_ncnn.records.plan import Step
from flexnn_ncnn.runtime import native
from flexnn_ncnn.runtime.memory.blob_memory import Blob, PartTarget
from flexnn_ncnn.runtime.slabs import SlabViews, forward_slabs, slab_views

__all__ = ["Action", "Mats", "Run", "joined_action", "overlay_action", "parts_action", "split_action"]

Mats = dict[str, native.Mat]
"""The blobs that exist, by name."""
Action = Callable[[Mats], None]
"""A step: reads blobs and adds its outputs."""
Run = Callable[[Callable[[native.LoadedLayer], None]], None]
"""Has a layer loaded while it calls what it is given with it."""


def split_action(step: Step) -> Action:
    """The same blob under several names."""
    (source,) = step.inputs

    def split(mats: Mats) -> None:
        for output in step.outputs:
            mats[output] = mats[source]

    return split


def joined_action(step: Step, whole: Blob) -> Action:
    """A blob whose parts were written into their places before."""
    (output,) = step.outputs

    def joined(mats: Mats) -> None:
        mats[output] = whole.mat

    return joined


def overlay_action(step: Step, run: Run, allocator: native.ScratchAllocator | None) -> Action:
    """A layer that writes over one of its inputs; `allocator` is what it computes with."""
    (output,) = step.outputs

    def overlay(mats: Mats) -> None:
        bottoms = [mats[name] for name in step.sources]
        # the layer that made the blob may have computed with another one
        over = native.with_allocator(mats[step.overwrites], allocator)
        run(lambda loaded: loaded.forward_list(bottoms, [over]))
        mats[output] = over

    return overlay


def parts_action(
    step: Step,
    runs: list[Run],
    targets: list[PartTarget],
    whole: Blob,
    placed: Blob | None,
    option: native.Option,
) -> Action:
    """A layer in slices, in slabs of rows, or both, each writing its part of the output."""
    source, output = step.sources[0], step.outputs[0]

    def views_of(bottom: native.Mat) -> list[list[SlabViews]]:
        reads = [native.channels_of(bottom, *part.reads) if part.reads[1] else bottom for part in step.parts]
        return [slab_views(step.slabs, read, target.mat) for read, target in zip(reads, targets, strict=True)]

    # blobs of the arena stay where they are, and so do their Mats; what the caller feeds does not
    known = (placed.mat, views_of(placed.mat)) if step.slabs and placed is not None else (None, [])

    def whole_rows(mats: Mats) -> None:
        bottom = mats[source]
        for part, run, target in zip(step.parts, runs, targets, strict=True):
            top = target.mat
            read = native.channels_of(bottom, *part.reads) if part.reads[1] else bottom
            run(lambda loaded, read=read, top=top: loaded.forward(read, top))  # type: ignore[misc]
            target.store(top)
        mats[output] = whole.mat

    def by_slabs(mats: Mats) -> None:
        nonlocal known
        bottom = mats[source]
        if known[0] is not bottom:
            known = bottom, views_of(bottom)
        _, everywhere = known
        for run, views in zip(runs, everywhere, strict=True):
            run(lambda loaded, views=views: forward_slabs(loaded, views, step.pad_value, option))  # type: ignore[misc]
        mats[output] = whole.mat

    return by_slabs if step.slabs else whole_rows
