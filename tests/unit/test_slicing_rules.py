from __future__ import annotations

import numpy as np
import pytest

from param_tools.errors import UnsupportedLayerError
from param_tools.graph import Layer
from param_tools.param_text import parse_param
from param_tools.schema import array_specs, int_params
from param_tools.shapes import BlobShape
from param_tools.slicing import registry
from param_tools.slicing.rule import ArrayTake, BlobTake, taken_view


def layer_of(text: str, inputs: int = 1) -> Layer:
    """The layer `type id=value...` with some inputs and one output."""
    kind, *params = text.split()
    names = [f"in{i}" for i in range(inputs)]
    lines = [f"Input {name} 0 1 {name}" for name in names]
    lines.append(f"{kind} it {inputs} 1 {' '.join(names)} out {' '.join(params)}")
    return parse_param("\n".join(["7767517", f"{len(lines)} {len(lines)}", *lines])).layers[-1]


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
    "ConvolutionDepthWise 0=96 1=3 5=1 6=6912 7=48 8=101",
    "ConvolutionDepthWise 0=48 1=3 5=1 6=432 7=48 8=2",
    "DeconvolutionDepthWise1D 0=48 1=4 5=1 6=192 7=48",
    "Deconvolution3D 0=48 1=2 5=1 6=1152",
    "DeformableConv2D 0=48 1=3 5=1 6=1296",
    "Embed 0=48 1=100 2=1 3=4800",
    "Embed 0=48 1=100 3=4800 18=1",
    "MultiHeadAttention 0=192 1=48 2=9600 3=30 4=20",
]


@pytest.mark.parametrize("text", CUTTABLE)
def test_slices_together_take_every_weight_once(text: str) -> None:
    layer = layer_of(text)
    (axis,) = registry.axes(layer)
    ranges = [(0, 16), (16, 40), (40, axis.units)]
    parts = [registry.take(layer, axis.name, *piece) for piece in ranges]
    specs = array_specs(layer)
    for part in parts:
        views = [taken_view(layer, t, np.zeros(specs[t.array_index].dims)) for t in part.arrays]
        taken = [view.size or specs[t.array_index].count for t, view in zip(part.arrays, views, strict=True)]
        assert taken == [spec.count for spec in array_specs(part.layer)], "the slice loads what it was given"
    for index, spec in enumerate(specs):
        values = np.arange(spec.count).reshape(spec.dims)
        takes = [part.arrays[index] for part in parts]
        pieces = [taken_view(layer, take, values) for take in takes]
        if spec.name == "out_bias":
            assert [piece.size for piece in pieces] == [spec.count, 0, 0]
        elif pieces[0].size == spec.count:
            assert all((piece == values).all() for piece in pieces), "shared arrays are taken whole"
        else:
            np.testing.assert_array_equal(np.concatenate(pieces, axis=takes[0].axis), values)


@pytest.mark.parametrize("text", ["ReLU", "Convolution 0=8 1=3 6=72 19=1", "InnerProduct 0=1 2=5", "Gemm", "Softmax"])
def test_what_cannot_be_cut_has_no_axes(text: str) -> None:
    assert registry.axes(layer_of(text)) == ()


@pytest.mark.parametrize(
    ("text", "inputs", "shape"),
    [
        ("Pooling 0=1 4=1", 1, BlobShape(3, 8, 8, c=4)),
        ("Pooling 0=1 7=1 8=2", 1, BlobShape(3, 8, 8, c=4)),
        ("Pooling 0=1 1=3 5=2", 1, BlobShape(3, 8, 8, c=4)),  # counts its padding in although told not to
        ("Pooling 0=0 1=2 3=2", 1, BlobShape(3, 8, 8, c=4)),  # a row of padding alone
        ("ReLU", 1, BlobShape(2, 8, 8)),
        ("ReLU", 1, BlobShape(3, 8, 1, c=4)),
        ("Scale 0=-233", 2, BlobShape(3, 8, 8, c=4)),
        ("Convolution 0=1 1=3 6=36 4=-5", 1, BlobShape(3, 8, 8, c=4)),
        ("Convolution 0=1 1=9 6=324", 1, BlobShape(3, 8, 8, c=4)),
        ("MultiHeadAttention 0=8 1=1 2=64", 1, BlobShape(2, 8, 8)),
        ("MultiHeadAttention 0=8 1=2 2=64 7=1", 1, BlobShape(2, 8, 8)),
        ("MultiHeadAttention 0=8 1=2 2=64 18=2", 1, BlobShape(2, 8, 8)),
    ],
)
def test_a_known_shape_does_not_make_everything_cuttable(text: str, inputs: int, shape: BlobShape) -> None:
    assert registry.axes(layer_of(text, inputs), (shape,) * inputs) == ()


def test_rows_need_the_input_shape() -> None:
    layer, shape = layer_of("Convolution 0=1 1=3 6=9 4=1"), BlobShape(3, 8, 8, c=1)
    assert registry.axes(layer) == ()
    assert [axis.name for axis in registry.axes(layer, (shape,))] == ["rows"]
    with pytest.raises(UnsupportedLayerError, match="along nothing, not along 'rows'"):
        registry.take(layer, "rows", 0, 4)


@pytest.mark.parametrize(
    ("text", "rows", "read", "padding"),
    [
        ("Convolution 0=1 1=3 6=9 4=1", (0, 4), (0, 5), (1, 0)),
        ("Convolution 0=1 1=3 6=9 4=1", (4, 8), (3, 8), (0, 1)),
        ("Convolution 0=1 1=3 6=9 4=1", (2, 5), (1, 6), (0, 0)),
        ("Convolution 0=1 1=3 2=2 6=9", (1, 3), (1, 7), (0, 0)),
        ("Convolution 0=1 1=3 3=2 6=9 4=-233", (0, 2), (0, 5), (0, 0)),
        ("Convolution 0=1 1=3 3=2 6=9 4=-233", (2, 4), (4, 8), (0, 1)),
        ("Convolution 0=1 1=3 3=2 6=9 4=-234", (0, 2), (0, 4), (1, 0)),
        ("Pooling 0=0 1=3 2=2", (2, 4), (4, 8), (0, 1)),  # pads behind to fill the last window
        ("Pooling 0=0 1=3 2=2 5=1", (1, 3), (2, 7), (0, 0)),
    ],
)
def test_rows_read_their_halo_and_keep_the_padding_at_the_edges(
    text: str, rows: tuple[int, int], read: tuple[int, int], padding: tuple[int, int]
) -> None:
    layer = layer_of(text)
    part = registry.take(layer, "rows", *rows, (BlobShape(3, 8, 8, c=1),))
    assert part.inputs == (BlobTake(0, "h", *read),)
    params = int_params(part.layer)
    assert (params["pad_top"], params["pad_bottom"]) == padding


def test_channels_read_the_inputs_of_their_groups() -> None:
    part = registry.take(layer_of("ConvolutionDepthWise 0=16 1=3 6=432 7=4"), "channels", 1, 3)
    assert part.inputs == (BlobTake(0, "c", 3, 9),)
    assert part.arrays == (ArrayTake(0, 0, 4, 12),)


def test_only_the_first_heads_add_the_output_bias() -> None:
    layer = layer_of("MultiHeadAttention 0=8 1=2 2=64")
    biases = [registry.take(layer, "heads", head, head + 1).arrays[7] for head in range(2)]
    assert biases == [ArrayTake(7, 0, 0, 8), ArrayTake(7, 0, 0, 0)]


def test_a_mask_per_head_is_cut_with_the_heads() -> None:
    layer = layer_of("MultiHeadAttention 0=8 1=2 2=64 5=1", inputs=2)
    query = BlobShape(2, 8, 5)
    assert registry.axes(layer) == ()
    assert registry.take(layer, "heads", 1, 2, (query, BlobShape(3, 5, 5, c=2))).inputs == (BlobTake(1, "c", 1, 2),)
    assert registry.take(layer, "heads", 1, 2, (query, BlobShape(2, 5, 5))).inputs == ()


def test_hints_of_the_whole_shape_are_dropped_and_make_winograd_inexact() -> None:
    layer = layer_of("Convolution 0=64 1=3 6=36864 30=3,8,8,64")
    assert not registry.axes(layer)[0].exact
    assert 30 not in registry.take(layer, "outputs", 0, 32).layer.params
    assert registry.axes(layer_of("Convolution 0=64 1=1 6=4096 30=3,8,8,64"))[0].exact


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
