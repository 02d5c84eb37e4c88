"""From limits to a sliced model on disk: plan, rewrite, write, record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

from param_tools.encoding import Encoding
from param_tools.model_io import NcnnModel, default_bin_path
from param_tools.shapes import BlobShape
from param_tools.slicing.cut import SlicedModel
from param_tools.slicing.manifest import (
    LargeLayer,
    Slice,
    SlicedLayer,
    SliceManifest,
    default_manifest_path,
    write_manifest,
)
from param_tools.slicing.policy import WeightLimits, plan_cuts
from param_tools.slicing.rewrite import apply_cuts
from param_tools.slicing.write import write_sliced
from param_tools.weights import WeightArray, WeightFile

__all__ = ["memory_bytes", "slice_model"]

_FP32_BYTES = 4


def memory_bytes(arrays: Sequence[WeightArray]) -> int:
    """Bytes of weights as ncnn holds them before it transforms them: fp32, or bytes for int8 and smaller."""
    in_bytes = (Encoding.INT8, Encoding.INT8_UNTAGGED)
    return sum(array.count * (1 if array.encoding in in_bytes else _FP32_BYTES) for array in arrays)


def slice_model(
    original: NcnnModel,
    param_path: str | PathLike[str],
    limits: WeightLimits,
    *,
    exact_only: bool = False,
    shapes: Mapping[str, BlobShape] | None = None,
) -> SliceManifest:
    """Slices the layers that exceed the limits and writes .param, .bin and manifest.

    Args:
        original: the opened model.
        param_path: where the .param goes; the .bin and the .slices.json go beside it.
        limits: what the weights of a layer may have.
        exact_only: cut only where slices are bit-identical to the whole.
        shapes: blob -> shape, as far as known.

    Returns:
        What was done, as it was written to the .slices.json.
    """
    sizes = [memory_bytes(arrays) for arrays in original.weights.arrays]
    cuts = plan_cuts(original.model, sizes, limits, exact_only=exact_only, shapes=shapes)
    sliced = apply_cuts(original.model, cuts, shapes)
    bin_path = default_bin_path(param_path)
    write_sliced(original, sliced, param_path, bin_path)
    with WeightFile.open(sliced.model, bin_path) as written:
        manifest = SliceManifest(
            Path(original.param_path).name,
            Path(original.bin_path).name,
            original.weights.size_bytes,
            tuple(_layers(original, sliced, written)),
            tuple(_too_large(sliced, written, limits)),
        )
    write_manifest(manifest, default_manifest_path(param_path))
    return manifest


def _layers(original: NcnnModel, sliced: SlicedModel, written: WeightFile) -> list[SlicedLayer]:
    found = []
    for done in sliced.cut_layers:
        layer = original.model.layers[done.cut.layer_index]
        slices = []
        for index, (begin, end) in zip(done.slices, done.cut.ranges, strict=True):
            arrays = written.arrays[index]
            first, last = (arrays[0].begin_bytes, arrays[-1].end_bytes) if arrays else (0, 0)
            slices.append(Slice(sliced.model.layers[index].name, index, begin, end, first, last - first))
        axis = done.cut.axis
        found.append(SlicedLayer(layer.name, done.cut.layer_index, layer.type, axis, done.exact, tuple(slices)))
    return found


def _too_large(sliced: SlicedModel, written: WeightFile, limits: WeightLimits) -> list[LargeLayer]:
    found = []
    for index, layer in enumerate(sliced.model.layers):
        limit, size = limits.of_layer(layer), memory_bytes(written.arrays[index])
        if limit is not None and size > limit:
            found.append(LargeLayer(layer.name, index, size, limit))
    return found
