"""The binary .param against the installed ncnn, and real files from the zoo's sources."""

from __future__ import annotations

from pathlib import Path

import ncnn
import numpy as np
import pytest

from flexnn_ncnn import zoo
from param_tools.errors import FlexnnError
from param_tools.graph import Model
from param_tools.model_io import open_model, read_param, write_model
from param_tools.param_binary import format_param_binary, parse_param_binary
from param_tools.param_text import format_param
from param_tools.shapes import BlobShape, infer_shapes
from tests.integration.format_cases import CASES, Case, feeds, pack_bin, run_stock
from tests.integration.stock_shapes import stock_shapes
from tests.rrdb import rrdb_model

MODELS = sorted((Path(__file__).parents[2] / "models").glob("*.param"))


def loads(model: Model, folder: Path) -> bool:
    (folder / "m.param.bin").write_bytes(format_param_binary(model))
    return ncnn.Net().load_param_bin(str(folder / "m.param.bin")) == 0


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_binary_of_the_zoo_loads_and_reads_back(path: Path, tmp_path: Path) -> None:
    model = read_param(path)
    assert loads(model, tmp_path)
    read = parse_param_binary(format_param_binary(model))
    for ours, theirs in zip(model.layers, read.layers, strict=True):
        assert (ours.type, list(ours.params)) == (theirs.type, list(theirs.params))
        for param_id in ours.params:
            value, again = ours.params[param_id].value, theirs.params[param_id].value
            assert again == (pytest.approx(value, rel=1e-6) if isinstance(value, (float, tuple)) else value)


def test_binary_of_a_large_upscaler_loads(tmp_path: Path) -> None:
    assert loads(rrdb_model(blocks=2), tmp_path)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_ncnn_computes_the_same_from_text_and_binary(case: Case, tmp_path: Path) -> None:
    weights = tmp_path / "m.bin"
    weights.write_bytes(pack_bin(case.layer))
    (tmp_path / "m.param").write_text(format_param(case.model))
    (tmp_path / "back.param").write_text(format_param(parse_param_binary(format_param_binary(case.model))))
    expected = run_stock(str(tmp_path / "m.param"), str(weights), case.layer.inputs, feeds(case), case.layer.outputs)
    numbered = read_param(tmp_path / "back.param")
    outputs = numbered.layers[-1].outputs
    actual = run_stock(str(tmp_path / "back.param"), str(weights), numbered.input_blobs, feeds(case), outputs)
    for ours, stock in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(ours, stock)


@pytest.mark.network
def test_a_real_fp16_model(tmp_path: Path) -> None:
    """realesrgan-x4plus as its users have it: read, measured and rewritten without a changed byte."""
    try:
        zoo.build("realesrgan-x4plus", tmp_path)
    except FlexnnError as error:
        pytest.skip(str(error))
    param, packed = zoo.model_paths("realesrgan-x4plus", tmp_path)
    with open_model(param, packed) as opened:
        assert format_param(opened.model).encode() == param.read_bytes()
        arrays = (opened.weights.stored(array) for layer in opened.weights.arrays for array in layer)
        write_model(opened.model, arrays, tmp_path / "copy.param", tmp_path / "copy.bin")
        model = opened.model
    assert (tmp_path / "copy.bin").read_bytes() == packed.read_bytes()
    feed = np.zeros((3, 8, 12), np.float32)
    report = infer_shapes(model, {"data": BlobShape.from_numpy(feed.shape)})
    inferred = {blob: shape.numpy_shape for blob, shape in report.items() if shape}
    assert inferred == stock_shapes(param.read_text(), {"data": feed}, model.producers)
