"""Every weighted layer type through our reader and writer, judged by stock ncnn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from param_tools.encoding import Encoding
from param_tools.model_io import open_model, write_model
from param_tools.param_text import format_param
from param_tools.weights import StoredArray
from tests.integration.format_cases import (
    BF16_TAG,
    CASES,
    FP16_TAG,
    INT8_TAG,
    RAW_TAG,
    TABLE_TAG,
    Case,
    feeds,
    pack_bin,
    run_stock,
)

TAGS = {"fp32": 0, "fp16": FP16_TAG, "bf16": BF16_TAG, "raw": RAW_TAG, "table": TABLE_TAG, "int8": INT8_TAG}
COMBINATIONS = [
    pytest.param(case, tag, id=f"{case.name}-{name}")
    for case in CASES
    for name, tag in TAGS.items()
    if tag == 0 or (case.has_tags and (tag != INT8_TAG or case.int8))
]


def written(case: Case, tag: int, folder: Path) -> tuple[Path, Path]:
    param, packed = folder / "original.param", folder / "original.bin"
    param.write_text(format_param(case.model))
    packed.write_bytes(pack_bin(case.layer, tag))
    return param, packed


def outputs(case: Case, param: Path, packed: Path) -> list[np.ndarray]:
    return run_stock(str(param), str(packed), case.layer.inputs, feeds(case), case.layer.outputs)


@pytest.mark.parametrize(("case", "tag"), COMBINATIONS)
def test_an_untouched_model_is_rewritten_byte_for_byte(case: Case, tag: int, tmp_path: Path) -> None:
    param, packed = written(case, tag, tmp_path)
    copy = tmp_path / "copy.param", tmp_path / "copy.bin"
    with open_model(param) as opened:
        arrays = (opened.weights.stored(array) for layer in opened.weights.arrays for array in layer)
        write_model(opened.model, arrays, *copy)
    assert copy[0].read_bytes() == param.read_bytes()
    assert copy[1].read_bytes() == packed.read_bytes()


@pytest.mark.parametrize(("case", "tag"), COMBINATIONS)
def test_stock_ncnn_computes_the_same_from_values_we_read_and_wrote(case: Case, tag: int, tmp_path: Path) -> None:
    """The values are read through the views and written anew, floats widened to fp32."""
    param, packed = written(case, tag, tmp_path)
    copy = tmp_path / "copy.param", tmp_path / "copy.bin"
    with open_model(param) as opened:
        weights = opened.weights
        again = [_plain(weights.stored(a), weights.read_float32(a)) for layer in weights.arrays for a in layer]
        write_model(opened.model, again, *copy)
    for ours, stock in zip(outputs(case, *copy), outputs(case, param, packed), strict=True):
        assert np.any(stock != 0)
        np.testing.assert_array_equal(ours, stock)


def _plain(stored: StoredArray, values: np.ndarray) -> StoredArray:
    if stored.encoding in (Encoding.FP16, Encoding.BF16, Encoding.TABLE, Encoding.FP32_RAW):
        return StoredArray(values, Encoding.FP32)
    return StoredArray(stored.values.copy(), stored.encoding)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.has_tags and not case.int8], ids=lambda case: case.name
)
def test_weights_narrowed_to_fp16_are_what_stock_ncnn_widens(case: Case, tmp_path: Path) -> None:
    param, _ = written(case, 0, tmp_path)
    half = tmp_path / "half.param", tmp_path / "half.bin"
    rounded = tmp_path / "rounded.param", tmp_path / "rounded.bin"
    with open_model(param) as opened:
        arrays = [opened.weights.stored(array) for layer in opened.weights.arrays for array in layer]
        write_model(opened.model, [_to(array, Encoding.FP16) for array in arrays], *half)
    with open_model(half[0]) as opened:
        arrays = [
            _to(StoredArray(opened.weights.read_float32(a), a.encoding), Encoding.FP32)
            for layer in opened.weights.arrays
            for a in layer
        ]
        write_model(opened.model, arrays, *rounded)
    for narrow, wide in zip(outputs(case, *half), outputs(case, *rounded), strict=True):
        np.testing.assert_array_equal(narrow, wide)


def _to(array: StoredArray, encoding: Encoding) -> StoredArray:
    return StoredArray(array.values, encoding) if array.encoding.tag is not None else array
