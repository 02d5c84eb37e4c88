"""From layers to buffers: which memory exists during which steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flexnn_ncnn.records.layout import OVERREAD_BYTES, BlobLayout, align_up, part_view
from flexnn_ncnn.records.profile import LayerProfile, ModelProfile

__all__ = ["ALIGNMENT_BYTES", "BlobProblem", "Buffer", "NestedBlob", "StepBlobs", "blob_problem", "live_bytes"]

# ncnn loads packed blobs with aligned instructions
ALIGNMENT_BYTES = 64


@dataclass(frozen=True, slots=True)
class Buffer:
    """Memory for one blob.

    Attributes:
        blob: its name; "name@step" for a converted copy.
        layout: how the blob lies in it.
        size_bytes: aligned, with what kernels may read past the end.
        begin, end: the steps it exists in, half-open.
    """

    blob: str
    layout: BlobLayout
    size_bytes: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class NestedBlob:
    """A blob that is written straight into its place in a larger one.

    Attributes:
        blob: its name.
        layout: its own layout.
        parent: the larger blob.
        offset_bytes: from the parent's first byte.
        begin, end: the steps it exists in, half-open.
    """

    blob: str
    layout: BlobLayout
    parent: str
    offset_bytes: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class StepBlobs:
    """What one layer is given and how it leaves its output.

    Attributes:
        mode: see `flexnn_ncnn.records.plan.Step`; an "inplace" layer that may not overwrite its input is given a copy.
        sources: per input the blob, or the name of a copy in the wanted layout.
        overwrites: the source whose memory the output of an "overlay" takes.
    """

    mode: str
    sources: tuple[str, ...]
    overwrites: str = ""


@dataclass(frozen=True, slots=True)
class BlobProblem:
    """All buffers of a network, to be placed in one arena, and the blobs that lie within other blobs' buffers."""

    buffers: tuple[Buffer, ...]
    nested: tuple[NestedBlob, ...]
    steps: tuple[StepBlobs, ...]


def blob_problem(profile: ModelProfile) -> BlobProblem:
    """Resolve aliases, copies and lifetimes of a profiled network.

    A blob that shares another's memory ("alias", "inplace", Split) extends its life; so does one that is a part of a
    Concat's output. What the caller feeds is not ours to place or to overwrite.
    """
    joined, inside = _joins(profile)
    layouts: dict[str, BlobLayout] = dict(profile.inputs)
    root = {blob: blob for blob in layouts}
    last_use = _last_uses(profile)
    lives: dict[str, tuple[int, int]] = {}
    nested: list[NestedBlob] = []

    def create_part(blob: str, layout: BlobLayout, step: int) -> None:
        parent, offset_bytes = inside[blob]
        if parent not in lives:
            create(parent, joined[parent], step)
        layouts[blob], root[blob] = layout, parent
        nested.append(NestedBlob(blob, layout, parent, offset_bytes, step, last_use[blob]))

    def create(blob: str, layout: BlobLayout, step: int) -> None:
        layouts[blob], root[blob], lives[blob] = layout, blob, (step, step + 1)

    def extend(blob: str, end: int) -> None:
        origin = root[blob]
        if origin in lives:  # what the caller feeds lives as long as the caller likes
            lives[origin] = (lives[origin][0], max(lives[origin][1], end))

    steps = []
    for step, layer in enumerate(profile.layers):
        sources = []
        for blob, wanted in zip(layer.inputs, layer.input_layouts, strict=True):
            extend(blob, step + 1)
            if layer.mode == "inplace" and (layouts[blob] != wanted or _is_shared(blob, step, root, lives, last_use)):
                sources.append(layer.outputs[0])  # copied there first, then overwritten there
            elif layouts[blob] != wanted:
                sources.append(f"{blob}@{step}")
                create(sources[-1], wanted, step)
            else:
                sources.append(blob)
        over = ""
        if layer.mode == "overlay":
            over = next((s for s in sources if not _is_shared(s, step, root, lives, last_use)), "")
        origin = over or (sources[0] if layer.mode in ("alias", "inplace") else "")
        for blob, layout in zip(layer.outputs, layer.output_layouts, strict=True):
            if origin and origin != blob:
                layouts[blob], root[blob] = layout, root[origin]
            elif blob in inside:
                create_part(blob, layout, step)
            elif blob not in joined:
                create(blob, layout, step)
            extend(blob, min(last_use[blob], len(profile.layers)))
        mode = "list" if layer.mode == "overlay" and not over else layer.mode
        mode = "join" if layer.outputs[0] in joined else mode
        steps.append(StepBlobs(mode, tuple(sources), over))
    buffers = (_buffer(blob, layouts[blob], begin, end) for blob, (begin, end) in lives.items())
    return BlobProblem(tuple(buffers), tuple(nested), tuple(steps))


def _joins(profile: ModelProfile) -> tuple[dict[str, BlobLayout], dict[str, tuple[str, int]]]:
    """The Concats whose inputs can be written straight into their output.

    Returns:
        Output -> its layout, and input -> (output, offset in bytes).
    """
    makers = {blob: layer for layer in profile.layers for blob in layer.outputs}
    readers: dict[str, int] = {}
    for layer in profile.layers:
        for blob in layer.inputs:
            readers[blob] = readers.get(blob, 0) + 1
    joined: dict[str, BlobLayout] = {}
    inside: dict[str, tuple[str, int]] = {}
    for layer in profile.layers:
        makes = [makers.get(blob) for blob in layer.inputs]
        alone = all(
            maker is not None and maker.mode in ("forward", "chain") and readers[blob] == 1
            for maker, blob in zip(makes, layer.inputs, strict=True)
        )
        offsets = _channel_offsets(layer) if alone and layer.type == "Concat" else None
        if offsets is None or set(layer.inputs) & set(profile.outputs):
            continue
        left = [maker.output_layouts[0] for maker in makes if maker is not None]
        if left != list(layer.input_layouts):
            continue  # a copy in another layout is made anyway
        (output,) = layer.outputs
        joined[output] = layer.output_layouts[0]
        inside.update({blob: (output, offset) for blob, offset in zip(layer.inputs, offsets, strict=True)})
    return joined, inside


def _channel_offsets(layer: LayerProfile) -> list[int] | None:
    """Where the inputs of a Concat by channels lie in its output, in bytes; None for any other."""
    whole, begin, offsets = layer.output_layouts[0], 0, []
    for part in layer.input_layouts:
        same_plane = (part.dims, part.w, part.h, part.elempack) == (3, whole.w, whole.h, whole.elempack)
        view = part_view(whole, "c", begin, begin + part.packed_extent) if same_plane and whole.dims == 3 else None
        if view is None or view.layout != part:
            return None
        offsets.append(view.offset_bytes)
        begin += part.packed_extent
    return offsets if begin == whole.packed_extent else None


def _buffer(blob: str, layout: BlobLayout, begin: int, end: int) -> Buffer:
    return Buffer(blob, layout, align_up(layout.size_bytes + OVERREAD_BYTES, ALIGNMENT_BYTES), begin, end)


def _last_uses(profile: ModelProfile) -> dict[str, int]:
    """Blob -> the step after its last reader; the caller reads outputs after the last step."""
    uses: dict[str, int] = {}
    for step, layer in enumerate(profile.layers):
        for blob in layer.outputs:
            uses[blob] = step + 1
        for blob in layer.inputs:
            uses[blob] = step + 1
    uses.update({blob: len(profile.layers) + 1 for blob in profile.outputs})
    return uses


def _is_shared(
    blob: str, step: int, root: Mapping[str, str], lives: Mapping[str, object], last_use: Mapping[str, int]
) -> bool:
    """Whether somebody still needs the memory of `blob` after `step`; the caller always does."""
    origin = root[blob]
    return origin not in lives or any(last_use.get(other, 0) > step + 1 for other, its in root.items() if its == origin)


def live_bytes(buffers: Sequence[Buffer], steps: int) -> list[int]:
    """Sum of the sizes that exist in each step: no arena can be smaller than the largest."""
    live = [0] * max(steps, 1)
    for buffer in buffers:
        for step in range(buffer.begin, buffer.end):
            live[step] += buffer.size_bytes
    return live
