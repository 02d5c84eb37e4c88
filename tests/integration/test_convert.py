from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from param_tools.convert import Conversion, convert_weights
from param_tools.encoding import Encoding
from param_tools.model_io import open_model, write_model
from param_tools.weights import StoredArray
from tests.property.slicing_stock import model_of

FC = "InnerProduct f{0} 1 1 x{0} x{1} 0=4 1=1 2=16"
MODEL = model_of(["Input x0 0 1 x0 0=4", *(FC.format(i, i + 1) for i in range(3))])
BIAS = StoredArray(np.arange(4, dtype=np.float32), Encoding.FP32_UNTAGGED)


def write(folder: Path, *weights: StoredArray) -> Path:
    arrays = [array for weight in weights for array in (weight, BIAS)]
    write_model(MODEL, arrays, folder / "a.param", folder / "a.bin")
    return folder / "a.param"


def convert(path: Path, encoding: Encoding) -> tuple[Conversion, list[Encoding], list[np.ndarray]]:
    out = path.with_name("b.param")
    with open_model(path) as original:
        done = convert_weights(original, out, encoding)
    with open_model(out) as converted:
        weights = [arrays[0] for arrays in converted.weights.arrays[1:]]
        values = [converted.weights.read_float32(array).copy() for array in weights]
        return done, [array.encoding for array in weights], values


def weight(value: float) -> np.ndarray:
    return np.full((4, 4), value, np.float32)


def test_floats_become_fp16_and_what_does_not_fit_stays(tmp_path: Path) -> None:
    fits, large = weight(65519.0), weight(65520.0)
    endless = weight(1.0)
    endless[0, 0] = np.inf
    path = write(tmp_path, *(StoredArray(values, Encoding.FP32) for values in (fits, large, endless)))
    done, encodings, values = convert(path, Encoding.FP16)
    assert encodings == [Encoding.FP16, Encoding.FP32, Encoding.FP16]
    assert done.kept_arrays == (("f1", "weight"),)
    assert (done.converted_arrays, done.lossy) == (2, True)
    assert values[0].max() == 65504
    np.testing.assert_array_equal(values[2], endless)
    assert done.bytes_before - done.bytes_after == 2 * 32


def test_narrow_floats_become_fp32_without_loss(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    half, brain = rng.standard_normal((2, 4, 4)).astype(np.float32)
    half = half.astype(np.float16).astype(np.float32)
    bits = brain.view(np.uint32) >> 16
    table = StoredArray(np.arange(16, dtype=np.uint8).reshape(4, 4), Encoding.TABLE, np.arange(256, dtype=np.float32))
    narrow = [StoredArray(half, Encoding.FP16), StoredArray(bits.astype(np.uint16), Encoding.BF16)]
    path = write(tmp_path, *narrow, table)
    done, encodings, values = convert(path, Encoding.FP32)
    assert encodings == [Encoding.FP32, Encoding.FP32, Encoding.TABLE]
    assert (done.converted_arrays, done.lossy, done.kept_arrays) == (2, False, ())
    np.testing.assert_array_equal(values[0], half)
    np.testing.assert_array_equal(values[1], (bits << 16).astype(np.uint32).view(np.float32))


def test_only_float_encodings_are_offered(tmp_path: Path) -> None:
    path = write(tmp_path, *[StoredArray(weight(1.0), Encoding.FP32)] * 3)
    with open_model(path) as original, pytest.raises(ValueError, match="to fp16 or fp32, not to int8"):
        convert_weights(original, tmp_path / "b.param", Encoding.INT8)
