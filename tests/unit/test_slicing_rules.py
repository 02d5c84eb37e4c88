from __future__ import annotations

import numpy as np
import pytest

from param_tools.errors import UnsupportedLayerError
from param_tools.graph import Layer
from param_tools.param_text import parse_param
from param_tools.schema import array_specs
from param_tools.slicing import registry
from param_tools.slicing.rule import taken_view


def layer_of(text: str) -> Layer:
    """The layer `type id=value...` with one input and one output."""
    kind, *params = text.split()
    lines = ["7767517", "2 2", "Input in 0 1 in", f"{kind} it 1 1 in out {' '.join(params)}"]
    return parse_param("\n".join(lines)).layers[1]


CUTTABLE = [
    "Convolution 0=48 1=3 4=1 5=1 6=6912",
    "Convolution 0=48 1=3 5=1 6=6912 8=102",
    "Convolution1D 0=48 1=3 5=1 6=2304",
    "InnerProduct 0=48 1=1 2=4800",
    "InnerProduct 0=48 1=1 2=4800 8=1",
    "Gemm 3=1 5=1 6=1 8=48 9=20 10=4",
    "Gemm 5=1 6=1 7=5 8=48 9=20 10=3",
    "Gemm 3=1 5=1 6=1 8=48 9=20 10=0 18=2",
    "Gemm 3=1 5=1 6=1 8=48 9=64 10=-1 18=410",
    "Gemm 4=1 6=1 7=48 9=20 10=1 18=2",
    "Gemm 2=1 4=1 6=1 7=48 8=7 9=20 10=3",
]


@pytest.mark.parametrize("text", CUTTABLE)
def test_slices_together_take_every_weight_once(text: str) -> None:
    layer = layer_of(text)
    (axis,) = registry.axes(layer)
    ranges = [(0, 16), (16, 40), (40, axis.units)]
    parts = [registry.take(layer, axis.name, *piece) for piece in ranges]
    specs = array_specs(layer)
    for part in parts:
        taken = [taken_view(layer, t, np.zeros(specs[t.array_index].dims)).size for t in part.arrays]
        assert taken == [spec.count for spec in array_specs(part.layer)], "the slice loads what it was given"
    for index, spec in enumerate(specs):
        values = np.arange(spec.count).reshape(spec.dims)
        takes = [part.arrays[index] for part in parts]
        pieces = [taken_view(layer, take, values) for take in takes]
        if pieces[0].size == spec.count:
            assert all((piece == values).all() for piece in pieces), "shared arrays are taken whole"
        else:
            np.testing.assert_array_equal(np.concatenate(pieces, axis=takes[0].axis), values)


@pytest.mark.parametrize("text", ["ReLU", "Convolution 0=8 1=3 6=72 19=1", "InnerProduct 0=1 2=5", "Gemm", "Softmax"])
def test_what_cannot_be_cut_has_no_axes(text: str) -> None:
    assert registry.axes(layer_of(text)) == ()


def test_an_unknown_axis_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedLayerError, match="can be cut along outputs, not along 'heads'"):
        registry.take(layer_of(CUTTABLE[0]), "heads", 0, 1)
    with pytest.raises(UnsupportedLayerError, match="no rule cuts the type 'Softmax'"):
        registry.take(layer_of("Softmax"), "outputs", 0, 1)


@pytest.mark.parametrize("piece", [(0, 0), (-1, 3), (40, 49), (5, 4)])
def test_a_range_outside_the_axis_is_refused(piece: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="has 48 outputs"):
        registry.take(layer_of(CUTTABLE[0]), "outputs", *piece)


def test_taking_everything_changes_nothing_that_counts() -> None:
    layer = layer_of("Convolution 0=48 1=3 4=1 5=1 6=6912")
    assert array_specs(registry.take(layer, "outputs", 0, 48).layer) == array_specs(layer)


@pytest.mark.parametrize(
    ("text", "least"),
    [
        ("Convolution 0=512 1=1 6=8192", 1),  # 1x1 is always GEMM
        ("Convolution 0=64 1=7 3=2 6=9408", 17),  # 3 inputs: direct up to 16 outputs
        ("Convolution 0=64 1=3 6=18432", 33),  # 32 inputs: winograd 63 up to 32 outputs
        ("Convolution 0=64 1=3 6=36864", 16),  # 64 inputs: 43 whatever the outputs
        ("Convolution 0=256 1=3 6=147456", 129),  # arm takes 63 up to 128 x 128
        ("Convolution 0=256 1=3 6=589824", 16),
        ("Convolution 0=64 1=3 3=2 6=36864", 32),
        ("Convolution 0=64 1=3 11=1 6=1536", 17),
    ],
)
def test_the_least_slice_keeps_the_kernel(text: str, least: int) -> None:
    assert registry.axes(layer_of(text))[0].least_units == least
