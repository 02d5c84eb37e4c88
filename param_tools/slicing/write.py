"""Writing a sliced model: streamed from the original's .bin, so that memory does not grow with the model."""

from __future__ import annotations

from os import PathLike

import numpy as np

from param_tools.encoding import Encoding
from param_tools.model_io import NcnnModel, write_model
from param_tools.slicing.cut import SlicedModel, Source
from param_tools.slicing.rule import taken_view
from param_tools.weights import StoredArray

__all__ = ["write_sliced"]


def write_sliced(
    original: NcnnModel, sliced: SlicedModel, param_path: str | PathLike[str], bin_path: str | PathLike[str]
) -> None:
    """Writes a sliced model, both files or neither.

    The weights of one slice lie together, slices in execution order. A .bin has no room for padding, so nothing but
    the first array is aligned to more than 4 bytes.

    Args:
        original: the opened model that was cut.
        sliced: what `apply_cuts` made of it.
        param_path: where the .param goes.
        bin_path: where the .bin goes.
    """
    arrays = (_stored(original, source) for sources in sliced.sources for source in sources)
    write_model(sliced.model, arrays, param_path, bin_path, after_chunk=original.weights.release_pages)


def _stored(original: NcnnModel, source: Source) -> StoredArray:
    layer = original.model.layers[source.layer_index]
    array = original.weights.arrays[source.layer_index][source.take.array_index]
    if source.take.begin == source.take.end:
        return StoredArray(np.zeros(array.shape, np.float32), Encoding.FP32_UNTAGGED)
    whole = original.weights.stored(array)
    return StoredArray(taken_view(layer, source.take, whole.values), whole.encoding, whole.table, whole.tag)
