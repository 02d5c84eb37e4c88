"""Records as text for people."""

from __future__ import annotations

from typing import TextIO

from flexnn_ncnn.inspection import BlobSummary, Inspection, LayerSummary
from flexnn_ncnn.reporters.escape import printable
from flexnn_ncnn.reporters.tables import write_table
from flexnn_ncnn.units import format_bytes
from param_tools.slicing.manifest import SlicedLayer, SliceManifest

__all__ = ["write_inspection"]


def write_inspection(found: Inspection, stream: TextIO, *, top: int) -> None:
    """Writes a summary, the layer types and the `top` largest layers."""
    for label, text in _summary(found):
        stream.write(f"{label:<12}{printable(text)}\n")
    stream.write("\n")
    write_table(
        ("type", "layers", "parameters", "weights"),
        [(one.type, str(one.layers), f"{one.parameters:,}", format_bytes(one.weights_bytes)) for one in found.types],
        stream,
        right=("layers", "parameters", "weights"),
    )
    largest = found.largest(top)
    if found.sliced is not None:
        _write_slices(found.sliced, stream, top)
    if largest:
        stream.write(f"\nLargest {len(largest)} of {len(found.weighted)} layers with weights:\n")
        write_table(
            ("layer", "name", "type", "output", "parameters", "weights", "stored as", "can be sliced by"),
            [_layer_row(layer) for layer in largest],
            stream,
            right=("layer", "parameters", "weights"),
        )


def _write_slices(sliced: SliceManifest, stream: TextIO, top: int) -> None:
    """What a sliced model was made from: the layers with the largest slices."""
    largest = sorted(sliced.layers, key=lambda layer: (-_slice_bytes(layer), layer.layer_index))[:top]
    stream.write(f"\nSliced from {printable(sliced.source_param)}: {len(sliced.layers)} of its layers")
    stream.write(f", the largest {len(largest)}:\n" if largest else "\n")
    if largest:
        write_table(
            ("layer", "name", "type", "sliced by", "slices", "largest slice", "bits"),
            [
                (
                    str(layer.layer_index),
                    layer.name,
                    layer.type,
                    layer.axis,
                    str(len(layer.slices)),
                    format_bytes(_slice_bytes(layer)),
                    "the same" if layer.exact else "rounded",
                )
                for layer in largest
            ],
            stream,
            right=("layer", "slices", "largest slice"),
        )


def _slice_bytes(layer: SlicedLayer) -> int:
    return max(one.size_bytes for one in layer.slices)


def _summary(found: Inspection) -> list[tuple[str, str]]:
    sliceable = sum(bool(layer.slices) for layer in found.weighted)
    stored = ", ".join(f"{one.encoding} {format_bytes(one.weights_bytes)}" for one in found.encodings)
    weights = stored if found.bin_found else f"no {found.bin_path}; {format_bytes(found.weights_bytes)} as fp32"
    custom = [one.type for one in found.types if not one.known]
    return [
        ("model", str(found.param_path)),
        ("layers", f"{len(found.layers)}, {len(found.weighted)} with weights, {sliceable} of these can be sliced"),
        ("parameters", f"{found.parameters:,}"),
        ("weights", weights or "none"),
        ("inputs", _blobs(found.inputs)),
        ("outputs", _blobs(found.outputs)),
        *([("unknown", _first_unknown(found))] if _first_unknown(found) else []),
        *([("custom", f"layer types that ncnn does not have: {', '.join(custom)}")] if custom else []),
    ]


def _first_unknown(found: Inspection) -> str:
    """Why the first blob without a shape has none, which is why those behind it have none; "" when all are known."""
    unknown = next((blob for layer in found.layers for blob in layer.outputs if blob.shape is None), None)
    if unknown is None:
        return ""
    is_input = any(unknown.name == one.name for one in found.inputs)
    hint = f" (--shape {unknown.name}=CxHxW)" if is_input else ""
    return f"shapes from blob {unknown.name!r} on: {unknown.unknown}{hint}"


def _blobs(blobs: tuple[BlobSummary, ...]) -> str:
    return ", ".join(f"{one.name} {_shape(one) or '(shape unknown)'}" for one in blobs)


def _shape(blob: BlobSummary) -> str:
    return "x".join(map(str, blob.shape or ()))


def _layer_row(layer: LayerSummary) -> tuple[str, ...]:
    return (
        str(layer.index),
        layer.name,
        layer.type,
        ", ".join(_shape(blob) or "?" for blob in layer.outputs),
        f"{layer.parameters:,}",
        format_bytes(layer.weights_bytes),
        "+".join(layer.encodings) or "-",
        ", ".join(f"{one.name} ({one.units})" for one in layer.slices) or "-",
    )
