"""What a command that wrote a model did, as text for people."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

from flexnn_ncnn.reporters.escape import printable
from flexnn_ncnn.reporters.tables import write_table
from flexnn_ncnn.units import format_bytes
from param_tools.convert import Conversion
from param_tools.slicing.manifest import SlicedLayer, SliceManifest

__all__ = ["write_conversion", "write_slices"]


def write_slices(done: SliceManifest, out_path: Path, stream: TextIO) -> None:
    """Writes the layers that were cut, and those that are still too large."""
    if done.layers:
        write_table(
            ("layer", "name", "type", "cut along", "slices", "largest slice", "result"),
            [_layer_row(layer) for layer in done.layers],
            stream,
            right=("layer", "slices", "largest slice"),
        )
    slices = sum(len(layer.slices) for layer in done.layers)
    stream.write(f"Cut {len(done.layers)} layers into {slices} slices.\n")
    for large in done.too_large:
        size, limit = format_bytes(large.weights_bytes), format_bytes(large.limit_bytes)
        stream.write(f"Still too large: {printable(large.name)}, {size} of weights where {limit} were asked for.\n")
    stream.write(f"Wrote {printable(str(out_path))}\n")


def _layer_row(layer: SlicedLayer) -> tuple[str, ...]:
    return (
        str(layer.layer_index),
        layer.name,
        layer.type,
        layer.axis,
        str(len(layer.slices)),
        format_bytes(max(one.size_bytes for one in layer.slices)),
        "same bits" if layer.exact else "rounds differently",
    )


def write_conversion(done: Conversion, out_path: Path, stream: TextIO) -> None:
    """Writes how many arrays changed and what that did to the file."""
    before, after = format_bytes(done.bytes_before), format_bytes(done.bytes_after)
    stream.write(f"Stored {done.converted_arrays} weight arrays as {done.encoding}: {before} became {after}.\n")
    for layer, array in done.kept_arrays:
        stream.write(f"Kept as fp32, having values too large for fp16: {printable(array)} of {printable(layer)}.\n")
    if done.lossy:
        stream.write("Lossy: each weight was rounded to fp16, by up to one part in 2048.\n")
    stream.write(f"Wrote {printable(str(out_path))}\n")
