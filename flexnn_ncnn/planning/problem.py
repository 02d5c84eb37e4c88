"""From layers to buffers: which memory exists during which steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flexnn_ncnn.layout import OVERREAD_BYTES, BlobLayout, align_up
from flexnn_ncnn.profile import ModelProfile

__all__ = ["ALIGNMENT_BYTES", "BlobProblem", "Buffer", "StepBlobs", "blob_problem", "live_bytes"]

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
class StepBlobs:
    """What one layer is given and how it leaves its output.

    Attributes:
        mode: see `flexnn_ncnn.plan.Step`; an "inplace" layer that may not overwrite its input is given a copy.
        sources: per input the blob, or the name of a copy in the wanted layout.
        overwrites: the source whose memory the output of an "overlay" takes.
    """

    mode: str
    sources: tuple[str, ...]
    overwrites: str = ""


@dataclass(frozen=True, slots=True)
class BlobProblem:
    """All buffers of a network, to be placed in one arena."""

    buffers: tuple[Buffer, ...]
    steps: tuple[StepBlobs, ...]


def blob_problem(profile: ModelProfile) -> BlobProblem:
    """Resolve aliases, copies and lifetimes of a profiled network.

    A blob that shares another's memory ("alias", "inplace", Split) extends its life. What the caller feeds is not
    ours to place or to overwrite.
    """
    layouts: dict[str, BlobLayout] = dict(profile.inputs)
    root = {blob: blob for blob in layouts}
    last_use = _last_uses(profile)
    lives: dict[str, tuple[int, int]] = {}

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
            else:
                create(blob, layout, step)
            extend(blob, last_use[blob])
        mode = "list" if layer.mode == "overlay" and not over else layer.mode
        steps.append(StepBlobs(mode, tuple(sources), over))
    buffers = (_buffer(blob, layouts[blob], begin, end) for blob, (begin, end) in lives.items())
    return BlobProblem(tuple(buffers), tuple(steps))


def _buffer(blob: str, layout: BlobLayout, begin: int, end: int) -> Buffer:
    return Buffer(blob, layout, align_up(layout.size_bytes + OVERREAD_BYTES, ALIGNMENT_BYTES), begin, end)


def _last_uses(profile: ModelProfile) -> dict[str, int]:
    """Blob -> the step after its last reader; outputs live to the end."""
    uses: dict[str, int] = {}
    for step, layer in enumerate(profile.layers):
        for blob in layer.outputs:
            uses[blob] = step + 1
        for blob in layer.inputs:
            uses[blob] = step + 1
    uses.update({blob: len(profile.layers) for blob in profile.outputs})
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
