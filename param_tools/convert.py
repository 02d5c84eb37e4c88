"""Storing a model's weights as fp16, half the bytes to read, or as fp32 again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from param_tools.encoding import Encoding
from param_tools.model_io import NcnnModel, default_bin_path, write_model
from param_tools.weights import StoredArray, WeightArray

__all__ = ["Conversion", "convert_weights"]

_BIASES = ("c", "bias_c")  # tagged like weights, but few and added last: halving them saves nothing
_WIDENED = (Encoding.FP16, Encoding.BF16)
_FP16_LIMIT = 65520.0  # the least magnitude that rounds to infinity
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Conversion:
    """What `convert_weights` did.

    Attributes:
        encoding: what was asked for: "fp16" or "fp32".
        converted_arrays: how many arrays changed.
        kept_arrays: layer and array of those that do not fit fp16 and stayed as they were.
        bytes_before: length of the .bin that was read.
        bytes_after: length of the one that was written.
    """

    encoding: str
    converted_arrays: int
    kept_arrays: tuple[tuple[str, str], ...]
    bytes_before: int
    bytes_after: int

    @property
    def lossy(self) -> bool:
        """Whether weights were rounded."""
        return self.encoding == Encoding.FP16.value and self.converted_arrays > 0


def convert_weights(original: NcnnModel, param_path: str | PathLike[str], encoding: Encoding) -> Conversion:
    """Writes a model with its weights stored otherwise; biases, scales, int8 weights and tables stay as they are.

    fp16 rounds each weight to 11 significant bits, one part in 2048 at most, and those below 6e-8 to zero. Back to fp32
    nothing is lost, and nothing comes back. ncnn widens fp16 when it loads.

    Args:
        original: the opened model.
        param_path: where the .param goes; the .bin goes beside it.
        encoding: Encoding.FP16 or Encoding.FP32.

    Raises:
        ValueError: another encoding.
    """
    if encoding not in (Encoding.FP16, Encoding.FP32):
        raise ValueError(f"weights are converted to fp16 or fp32, not to {encoding.value}")
    changed: list[WeightArray] = []
    kept: list[WeightArray] = []
    bin_path = default_bin_path(param_path)
    arrays = _arrays(original, encoding, changed, kept)
    write_model(original.model, arrays, param_path, bin_path, after_chunk=original.weights.release_pages)
    return Conversion(
        encoding.value,
        len(changed),
        tuple((original.model.layers[array.layer_index].name, array.name) for array in kept),
        original.weights.size_bytes,
        Path(bin_path).stat().st_size,
    )


def _arrays(
    original: NcnnModel, encoding: Encoding, changed: list[WeightArray], kept: list[WeightArray]
) -> Iterator[StoredArray]:
    for array in (array for arrays in original.weights.arrays for array in arrays):
        stored = original.weights.stored(array)
        if encoding is Encoding.FP16 and array.encoding is Encoding.FP32 and array.name not in _BIASES:
            if _fits_fp16(stored.values, original.weights.release_pages):
                changed.append(array)
                stored = StoredArray(stored.values, Encoding.FP16)
            else:
                kept.append(array)
        elif encoding is Encoding.FP32 and array.encoding in _WIDENED:
            changed.append(array)
            is_float = array.encoding is Encoding.FP16
            stored = StoredArray(stored.values if is_float else original.weights.read_float32(array), Encoding.FP32)
        yield stored


def _fits_fp16(values: npt.NDArray[Any], after_chunk: Callable[[], None]) -> bool:
    """Whether no finite value becomes infinite."""
    flat = values.reshape(-1)
    for begin in range(0, flat.size, _CHUNK):
        magnitudes = np.abs(flat[begin : begin + _CHUNK])
        if np.any((magnitudes >= _FP16_LIMIT) & np.isfinite(magnitudes)):
            return False
        after_chunk()
    return True
