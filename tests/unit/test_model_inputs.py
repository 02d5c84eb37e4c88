"""What a network wants to be fed, and whether shapes fit it; without ncnn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flexnn_ncnn import zoo
from flexnn_ncnn.errors import InputError
from flexnn_ncnn.fit import check_fit
from flexnn_ncnn.model_inputs import as_blob, input_specs, sample_arrays
from flexnn_ncnn.zoo.entry import InputSpec
from param_tools.graph import Layer, Model
from param_tools.model_io import read_param

ROOT = Path(__file__).resolve().parents[2]
GRAPHS = [zoo.entry(name) for name in zoo.names() if zoo.entry(name).graph]


def layer(kind: str, inputs: str, outputs: str, **params: float) -> Layer:
    made = Layer(kind, f"{kind}-1", tuple(inputs.split()), tuple(outputs.split()))
    return made.with_params({int(key[1:]): value for key, value in params.items()})


def model(*layers: Layer) -> Model:
    return Model(layers)


@pytest.mark.parametrize("known", GRAPHS, ids=lambda one: one.name)
def test_the_zoos_graphs_say_what_its_manifest_says(known: zoo.ZooEntry) -> None:
    graph = read_param(ROOT / "models" / known.graph)
    found = input_specs(graph, {one.blob: one.shape for one in known.inputs})
    assert found == known.inputs
    check_fit(graph, zoo.sample_input(known))


def test_shapes_come_from_the_graph_unless_given() -> None:
    graph = model(layer("Input", "", "a", p0=5, p1=4, p2=3), layer("Input", "", "b"))
    assert [one.shape for one in input_specs(graph)] == [(3, 4, 5), ()]
    assert [one.shape for one in input_specs(graph, {"a": (3, 8, 8), "b": (7,)})] == [(3, 8, 8), (7,)]
    with pytest.raises(InputError, match="no input blob 'c'; it reads a, b"):
        input_specs(graph, {"c": (1,)})
    with pytest.raises(InputError, match="cannot have the shape"):
        input_specs(graph, {"a": (3, 0)})


def test_ids_are_known_by_the_table_they_are_looked_up_in() -> None:
    graph = model(
        layer("Input", "", "a", p0=4),
        layer("Split", "a", "a0 a1"),
        layer("Reshape", "a0", "a2", p0=-1),
        layer("Embed", "a2", "x", p0=8, p1=100, p3=800),
        layer("Embed", "a1", "y", p0=8, p1=60, p3=480),
        layer("Input", "", "b", p0=4),
        layer("ReLU", "b", "c"),
        layer("Embed", "c", "z", p0=8, p1=10, p3=80),
    )
    ids, floats = input_specs(graph)
    assert (ids.dtype, ids.ids_below) == ("int32", 60)
    assert (floats.dtype, floats.ids_below) == ("float32", 0)
    sample = sample_arrays((ids, floats), "m")
    assert 0 <= sample["a"].min() <= sample["a"].max() < 60


def test_what_fits_is_not_copied() -> None:
    floats, ids = InputSpec("a", (), "float32"), InputSpec("b", (), "int32", 9)
    array = np.zeros((3, 4), np.float32)
    assert as_blob(floats, array) is array
    assert as_blob(floats, array.T).flags.c_contiguous
    numbers = np.zeros(3, np.int32)
    assert as_blob(ids, numbers) is numbers
    assert as_blob(floats, np.array([np.inf, np.nan])).dtype == np.float32


@pytest.mark.parametrize(
    ("layers", "shape", "words"),
    [
        ([layer("Convolution", "in", "o", p0=8, p1=3, p6=8 * 3 * 9)], (4, 9, 9), "reads 3 channels, not 4"),
        ([layer("Convolution", "in", "o", p0=8, p1=3, p6=8 * 3 * 9)], (3, 2, 9), "a window of 3 does not fit"),
        ([layer("ConvolutionDepthWise", "in", "o", p0=8, p1=3, p6=72, p7=8)], (4, 9, 9), "reads 8 channels, not 4"),
        ([layer("Deconvolution", "in", "o", p0=8, p1=3, p6=8 * 3 * 9)], (4, 9, 9), "reads 3 channels, not 4"),
        ([layer("BatchNorm", "in", "o", p0=3)], (4, 9, 9), "reads 3 channels, not 4"),
        ([layer("Scale", "in", "o", p0=3)], (4, 9), "reads 3 channels, not 4"),
        ([layer("InnerProduct", "in", "o", p0=2, p2=24)], (4, 5), "its weights 12 columns"),
        ([layer("Reshape", "in", "o", p0=7, p1=7)], (4, 5), "has not the elements of"),
        ([layer("Embed", "in", "o", p0=8, p1=10, p3=80)], (4, 5), "its input has the shape"),
        ([layer("ReLU", "in", "m"), layer("BatchNorm", "m", "o", p0=3)], (4, 9, 9), "BatchNorm-1"),
    ],
)
def test_shapes_that_would_make_ncnn_read_beyond_a_weight(
    layers: list[Layer], shape: tuple[int, ...], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        check_fit(model(layer("Input", "", "in"), *layers), {"in": np.zeros(shape, np.float32)})


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ([layer("Convolution", "in", "o", p0=8, p1=1, p6=24)], (3,)),
        ([layer("InnerProduct", "in", "o", p0=2, p2=24)], (5, 12)),
        ([layer("InnerProduct", "in", "o", p0=2, p2=24)], (3, 2, 2)),
        ([layer("Reshape", "in", "o", p0=-1, p1=2)], (4, 5)),
        ([layer("MyOwnLayer", "in", "o")], (4, 5)),
        ([layer("Scale", "in in", "o", p0=-233)], (4, 5)),
    ],
)
def test_shapes_that_fit_or_may(layers: list[Layer], shape: tuple[int, ...]) -> None:
    check_fit(model(layer("Input", "", "in"), *layers), {"in": np.zeros(shape, np.float32)})


def test_matrices_that_cannot_be_added() -> None:
    add: Any = model(layer("Input", "", "a"), layer("Input", "", "b"), layer("BinaryOp", "a b", "o"))
    with pytest.raises(InputError, match=r"\(a 3x4, b 2x4\): layer 'BinaryOp-1'"):
        check_fit(add, {"a": np.zeros((3, 4)), "b": np.zeros((2, 4))})
    check_fit(add, {"a": np.zeros((3, 4)), "b": np.zeros((1, 4))})
