"""Sliced files: their structure, their bytes, and that stock ncnn runs them to the whole's output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from param_tools.encoding import Encoding
from param_tools.errors import FlexnnError, UnsupportedLayerError
from param_tools.graph import Model
from param_tools.model_io import open_model, read_param
from param_tools.shapes import BlobShape, infer_shapes
from param_tools.slicing import write
from param_tools.slicing.cut import Cut, SlicedModel, file_axes
from param_tools.slicing.manifest import default_manifest_path, read_manifest
from param_tools.slicing.policy import WeightLimits
from param_tools.slicing.rewrite import apply_cuts
from param_tools.slicing.slicer import slice_model
from param_tools.weights import StoredArray
from tests.property.slicing_stock import model_of, option, run, slice_file, whole_and_sliced, write_random

INPUT = "Input in 0 1 in 0=20 1=24 2=16"
CONV = "Convolution {} 1 1 {} {} 0=32 1=3 4=1 5=1 6={} 9=1"
FIRST = CONV.format("a", "in", "mid", 16 * 32 * 9)
SECOND = CONV.format("b", "mid", "out", 32 * 32 * 9)


def shapes_of(model: Model) -> dict[str, BlobShape]:
    return {blob: shape for blob, shape in infer_shapes(model, {}).items() if shape is not None}


def picture(channels: int = 16, height: int = 24, width: int = 20) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((channels, height, width)).astype(np.float32)


def kinds(model: Model) -> list[str]:
    return [layer.type for layer in model.layers]


def check_bits(layers: Sequence[str], cuts: Sequence[Cut], encoding: Encoding | None = None) -> SlicedModel:
    """Checks that the sliced model gives the whole's bits, with and without packing."""
    model = model_of(layers)
    channels = shapes_of(model)["in"].c
    for packing in (True, False):
        whole, sliced, done = whole_and_sliced(
            layers, {"in": picture(channels)}, cuts, option(packing=packing), shapes_of(model), encoding
        )
        np.testing.assert_array_equal(sliced, whole)
    return done


def test_a_cut_layer_becomes_split_slices_and_concat() -> None:
    done = check_bits([INPUT, FIRST, SECOND], [Cut(1, "outputs", ((0, 16), (16, 32)))])
    assert kinds(done.model) == ["Input", "Split", "Convolution", "Convolution", "Concat", "Convolution"]
    assert done.model.layers[4].name == "a"
    assert done.model.layers[4].outputs == ("mid",)


def test_a_single_range_changes_nothing() -> None:
    model = model_of([INPUT, FIRST])
    assert apply_cuts(model, [Cut(1, "outputs", ((0, 32),))]).model == model


def test_slices_of_equal_rows_are_connected_and_run_one_after_the_other() -> None:
    layers = [
        INPUT,
        "Convolution a 1 1 in x 0=32 1=1 5=1 6=512",
        "ReLU r 1 1 x y",
        "Pooling p 1 1 y out 0=0 1=2 2=2",
    ]
    cuts = [Cut(1, "rows", ((0, 10), (10, 24))), Cut(2, "rows", ((0, 10), (10, 24))), Cut(3, "rows", ((0, 5), (5, 12)))]
    done = check_bits(layers, cuts)
    run_order = ["Convolution", "ReLU", "Pooling"]
    assert kinds(done.model) == ["Input", "Slice", *run_order, *run_order, "Concat"]


def test_rows_with_a_halo_are_cropped_out_of_copies() -> None:
    done = check_bits([INPUT, FIRST], [Cut(1, "rows", ((0, 12), (12, 24)))])
    assert kinds(done.model) == ["Input", "Split", "Crop", "Convolution", "Crop", "Convolution", "Concat"]


def test_other_cuts_of_the_next_layer_join_first() -> None:
    cuts = [Cut(1, "rows", ((0, 12), (12, 24))), Cut(2, "rows", ((0, 8), (8, 24)))]
    done = check_bits([INPUT, FIRST, "ReLU r 1 1 mid out"], cuts)
    assert kinds(done.model)[-5:] == ["Concat", "Slice", "ReLU", "ReLU", "Concat"]


def test_channels_of_a_depthwise_layer_follow_those_of_the_layer_before() -> None:
    layers = [INPUT, FIRST, "ConvolutionDepthWise d 1 1 mid out 0=32 1=3 4=1 5=1 6=288 7=32"]
    ranges = ((0, 16), (16, 32))
    done = check_bits(layers, [Cut(1, "outputs", ranges), Cut(2, "channels", ranges)])
    depthwise = "ConvolutionDepthWise"
    assert kinds(done.model) == ["Input", "Split", "Convolution", depthwise, "Convolution", depthwise, "Concat"]


def test_a_branch_beside_the_slices_keeps_its_place() -> None:
    layers = [
        INPUT,
        "Split s 1 2 in p q",
        "ReLU r 1 1 p x",
        "Convolution side 1 1 q y 0=16 1=1 6=256",
        "BinaryOp add 2 1 x y out 0=0",
    ]
    ranges = ((0, 12), (12, 24))
    done = check_bits(layers, [Cut(2, "rows", ranges), Cut(4, "rows", ranges)])
    assert kinds(done.model).count("Concat") == 1


@pytest.mark.parametrize("encoding", [Encoding.FP16, Encoding.TABLE, Encoding.FP32_RAW])
def test_stored_weights_stay_as_they_were_stored(encoding: Encoding, tmp_path: Path) -> None:
    write_random(model_of([INPUT, FIRST]), tmp_path / "a.param", encoding)
    slice_file(tmp_path / "a.param", tmp_path / "b.param", [Cut(1, "outputs", ((0, 16), (16, 32)))])
    with open_model(tmp_path / "a.param") as whole, open_model(tmp_path / "b.param") as sliced:
        weight, bias = (whole.weights.view(array) for array in whole.weights.arrays[1])
        parts = [[sliced.weights.view(array) for array in sliced.weights.arrays[i]] for i in (2, 3)]
        assert sliced.weights.arrays[2][0].encoding is encoding
        np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), weight)
        np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), bias)


@pytest.mark.parametrize("outputs", [48, 20])
def test_an_int8_output_is_joined_as_float_and_quantised_again(outputs: int) -> None:
    size = outputs * 16 * 9
    layers = [
        INPUT,
        f"Convolution a 1 1 in mid 0={outputs} 1=3 4=1 5=1 6={size} 9=1 8=101",
        f"Convolution b 1 1 mid out 0=16 1=3 4=1 5=1 6={size} 8=1",
    ]
    done = check_bits(layers, [Cut(1, "outputs", ((0, 16), (16, outputs)))], Encoding.INT8)
    assert kinds(done.model) == ["Input", "Split", "Convolution", "Convolution", "Concat", "Quantize", "Convolution"]
    assert not done.cut_layers[0].exact  # no promise: ncnn folds the scales of a requantising ReLU into one product


def test_an_int8_input_is_not_cut_as_stock_ncnn_would_corrupt_it() -> None:
    model = model_of(
        [
            INPUT,
            "Convolution a 1 1 in x 0=32 1=1 6=512 8=101",
            "Split s 1 2 x y z",
            "ConvolutionDepthWise b 1 1 y o 0=32 1=3 6=288 7=32 8=1",
            "Convolution c 1 1 z p 0=32 1=1 6=1024 8=1",
        ]
    )
    assert file_axes(model, 3, shapes_of(model)) == ()
    assert [axis.name for axis in file_axes(model, 4, shapes_of(model))] == ["outputs"]
    with pytest.raises(UnsupportedLayerError, match="cannot be cut along 'channels' in a file"):
        apply_cuts(model, [Cut(3, "channels", ((0, 16), (16, 32)))])


def test_shape_hints_stay_on_the_joined_blob_and_take_the_promise_away() -> None:
    hinted = FIRST.replace("9=1", "9=1 30=3,20,24,32")
    model = model_of([INPUT, hinted, SECOND])
    done = apply_cuts(model, [Cut(1, "outputs", ((0, 16), (16, 32)))])
    hints = [30 in layer.params for layer in done.model.layers]
    assert hints == [False, False, False, False, True, False]
    assert not file_axes(model, 1)[0].exact
    assert not file_axes(model, 2)[0].exact, "ncnn heeds the hints of a layer's input too"
    assert file_axes(model_of([INPUT, FIRST, SECOND]), 2)[0].exact


def test_names_are_new_and_no_longer_than_ncnn_reads(tmp_path: Path) -> None:
    long = "n" * 250
    layers = [
        INPUT,
        FIRST.replace(" a ", f" {long} ").replace("mid", "mid_slice0"),
        SECOND.replace("mid", "mid_slice0"),
    ]
    write_random(model_of(layers), tmp_path / "a.param")
    halves = ((0, 16), (16, 32))
    done = slice_file(
        tmp_path / "a.param", tmp_path / "b.param", [Cut(1, "outputs", halves), Cut(2, "outputs", halves)]
    )
    names = [layer.name for layer in done.model.layers]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= 255
    feeds = {"in": picture()}
    whole, sliced = (run(tmp_path / name, feeds, option())["out"] for name in ("a.param", "b.param"))
    np.testing.assert_array_equal(sliced, whole)


@pytest.mark.parametrize(
    ("cuts", "error", "match"),
    [
        ([Cut(1, "outputs", ((0, 16), (16, 31)))], ValueError, "do not cover its 32 outputs"),
        ([Cut(1, "outputs", ((0, 16), (17, 32)))], ValueError, "do not cover"),
        ([Cut(1, "outputs", ((1, 16), (16, 32)))], ValueError, "do not cover"),
        ([Cut(1, "outputs", ((0, 32),)), Cut(1, "rows", ((0, 24),))], ValueError, "two cuts of one layer"),
        ([Cut(1, "rows", ((0, 12), (12, 24)))], UnsupportedLayerError, "cannot be cut along 'rows' in a file"),
        ([Cut(0, "outputs", ((0, 1), (1, 2)))], UnsupportedLayerError, "'in' \\(Input\\) cannot be cut"),
    ],
)
def test_impossible_cuts_are_refused(cuts: list[Cut], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        apply_cuts(model_of([INPUT, FIRST]), cuts)


def test_the_manifest_says_where_each_slice_lies(tmp_path: Path) -> None:
    layers = [INPUT.replace("16", "32"), CONV.format("a", "in", "mid", 32 * 32 * 9), SECOND]
    write_random(model_of(layers), tmp_path / "a.param")
    with open_model(tmp_path / "a.param") as original:
        done = slice_model(original, tmp_path / "b.param", WeightLimits(conv_bytes=20_000))
    assert read_manifest(default_manifest_path(tmp_path / "b.param")) == done
    assert (done.source_param, done.source_bin) == ("a.param", "a.bin")
    assert [(layer.name, len(layer.slices)) for layer in done.layers] == [("a", 2), ("b", 2)]
    sliced = read_param(tmp_path / "b.param")
    slices = [one for layer in done.layers for one in layer.slices]
    assert [sliced.layers[one.layer_index].name for one in slices] == [one.name for one in slices]
    # contiguous, in execution order, nothing between: the format has no room for padding
    assert slices[0].offset_bytes == 0
    ends = [one.offset_bytes + one.size_bytes for one in slices]
    assert [one.offset_bytes for one in slices[1:]] == ends[:-1]
    assert ends[-1] == (tmp_path / "b.bin").stat().st_size


def test_what_stays_too_large_is_told(tmp_path: Path) -> None:
    write_random(model_of([INPUT, FIRST, SECOND]), tmp_path / "a.param")
    with open_model(tmp_path / "a.param") as original:
        done = slice_model(original, tmp_path / "b.param", WeightLimits(conv_bytes=100))
    # with 16 inputs, slices of 16 outputs would not stay on the kernel; with 32 they do
    assert [large.name for large in done.too_large] == ["a", "b_slice0", "b_slice1"]
    assert all(large.weights_bytes > large.limit_bytes == 100 for large in done.too_large)


def test_only_exact_cuts_on_request(tmp_path: Path) -> None:
    layers = [
        "Input in 0 1 in 0=32 1=5",
        "MultiHeadAttention m 1 1 in x 0=32 1=4 2=1024",
        "InnerProduct f 1 1 x out 0=32 2=1024",
    ]
    write_random(model_of(layers), tmp_path / "a.param")
    limits = WeightLimits(fc_bytes=3000)
    with open_model(tmp_path / "a.param") as original:
        both = slice_model(original, tmp_path / "b.param", limits)
        exact = slice_model(original, tmp_path / "c.param", limits, exact_only=True)
    assert [layer.exact for layer in both.layers] == [False, True]
    assert [layer.name for layer in exact.layers] == ["f"]
    assert [large.name for large in exact.too_large] == ["m"]


def test_a_failing_write_keeps_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_random(model_of([INPUT, FIRST]), tmp_path / "a.param")
    for name in ("b.param", "b.bin"):
        (tmp_path / name).write_text("old")
    stored: Callable[..., StoredArray] = write._stored
    taken: Iterator[int] = iter(range(10))

    def failing(*arguments: object) -> StoredArray:
        if next(taken) == 2:
            raise OSError(28, "No space left on device")
        return stored(*arguments)

    monkeypatch.setattr(write, "_stored", failing)
    with pytest.raises(FlexnnError, match="No space left"):
        slice_file(tmp_path / "a.param", tmp_path / "b.param", [Cut(1, "outputs", ((0, 16), (16, 32)))])
    assert (tmp_path / "b.param").read_text() == (tmp_path / "b.bin").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "a.param", "b.bin", "b.param"]
