"""Shape inference against the shapes stock ncnn really makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from param_tools.model_io import read_param
from param_tools.param_text import format_param
from param_tools.shapes import BlobShape, infer_shapes
from tests.integration.format_cases import CASES, Case, feeds
from tests.integration.stock_shapes import stock_shapes
from tests.rrdb import rrdb_model

MODELS = Path(__file__).parents[2] / "models"
ZOO = sorted(path.stem for path in MODELS.glob("*.param"))


@pytest.mark.parametrize("name", ZOO)
def test_every_blob_of_the_zoo(name: str) -> None:
    path = MODELS / f"{name}.param"
    model = read_param(path)
    feed = np.zeros(64, np.int32) if name.startswith("gpt2") else np.zeros((3, 224, 224), np.float32)
    report = infer_shapes(model, {"in0": BlobShape.from_numpy(feed.shape)})
    assert not report.reasons
    inferred = {blob: shape.numpy_shape for blob, shape in report.items() if shape}
    assert inferred == stock_shapes(path.read_text(), {"in0": feed}, model.producers)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_weighted_layer(case: Case) -> None:
    inputs = dict(zip(case.layer.inputs, feeds(case), strict=True))
    report = infer_shapes(case.model, {blob: BlobShape.from_numpy(values.shape) for blob, values in inputs.items()})
    actual = stock_shapes(format_param(case.model), inputs, case.layer.outputs)
    assert {blob: report[blob] and report[blob].numpy_shape for blob in case.layer.outputs} == actual


def test_every_blob_of_a_large_upscaler() -> None:
    model = rrdb_model()
    assert (len(model.layers), len(model.producers)) == (999, 1782), "as in the realesrgan-x4plus that people use"
    feed = np.zeros((3, 8, 12), np.float32)
    report = infer_shapes(model, {"0": BlobShape.from_numpy(feed.shape)})
    assert not report.reasons
    inferred = {blob: shape.numpy_shape for blob, shape in report.items() if shape}
    assert inferred == stock_shapes(format_param(model), {"0": feed}, model.producers)
    (output,) = model.output_blobs
    assert inferred[output] == (3, 32, 48)
