"""What the profiler finds out about real layers by trying them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import pytest

from flexnn_ncnn.errors import InputError, ProfileError
from flexnn_ncnn.planning.arena import place
from flexnn_ncnn.planning.problem import blob_problem, live_bytes
from flexnn_ncnn.profiling.known import KnownLoads
from flexnn_ncnn.profiling.profiler import profile_model
from flexnn_ncnn.records.options import KERNELS, RunOptions
from flexnn_ncnn.records.profile import KernelCost, LayerProfile, Linear
from flexnn_ncnn.runtime import native
from flexnn_ncnn.runtime.memory import process_memory
from param_tools.model_io import open_model, read_param
from param_tools.slicing.rule import Axis
from tests.integration.pipeline import Array, Prepared, feed, prepared, prepared_files
from tests.property.slicing_stock import model_of, write_random
from tests.unit import profiles

MODELS = Path(__file__).resolve().parents[2] / "models"
exact_memory = pytest.mark.skipif(not process_memory.peak_is_exact(), reason="the system does not tell the peak")


def one_layer(line: str, *shapes: tuple[int, ...], **options: object) -> LayerProfile:
    """The profile of the layer called `it`."""
    inputs = {f"in{i}": feed(*shape, seed=i) for i, shape in enumerate(shapes)}
    feeds = [f"Input {blob} 0 1 {blob}" for blob in inputs]
    with prepared([*feeds, line], inputs, **options) as found:  # type: ignore[arg-type]
        return found.layer("it")


MODES_FOUND = {
    "forward": [
        ("Convolution it 1 1 in0 out 0=8 1=3 5=1 6=216", (3, 6, 6)),
        ("Pooling it 1 1 in0 out 0=0 1=2 2=2", (3, 6, 6)),
        ("InnerProduct it 1 1 in0 out 0=8 1=1 2=864", (3, 6, 6)),
        ("Flatten it 1 1 in0 out", (4, 2, 3)),
        ("Permute it 1 1 in0 out 0=1", (16, 3, 5)),
    ],
    "fresh": [("Reshape it 1 1 in0 out 0=48", (16, 3)), ("Interp it 1 1 in0 out 0=1 1=2.0 2=2.0", (4, 4, 4))],
    "list": [
        ("Concat it 2 1 in0 in1 out 0=0", (3, 6), (4, 6)),
        ("Slice it 1 2 in0 a b -23300=2,5,-233 1=0", (17, 2)),
        ("BinaryOp it 2 1 in0 in1 out 0=1", (16, 4, 4), (16,)),
        ("LSTM it 1 1 in0 out 0=5 1=120 2=0", (4, 6)),
        ("MultiHeadAttention it 1 1 in0 out 0=8 1=2 2=64 3=8 4=8", (4, 8)),
        ("MatMul it 2 1 in0 in1 out 0=1", (4, 8), (5, 8)),
    ],
    "list_4d": [("Slice it 1 2 in0 a b -23300=2,5,-233 1=0", (17, 2, 2))],
    "overlay": [
        ("BinaryOp it 2 1 in0 in1 out 0=0", (16, 4, 4), (16, 4, 4)),
        ("Eltwise it 2 1 in0 in1 out 0=1", (8,), (8,)),
    ],
    "inplace": [
        ("ReLU it 1 1 in0 out", (16, 4, 4)),
        ("LayerNorm it 1 1 in0 out 0=6 1=0.1", (3, 6)),
        ("Softmax it 1 1 in0 out 0=0 1=1", (16,)),
        ("BatchNorm it 1 1 in0 out 0=16", (16, 4, 4)),
        ("BinaryOp it 1 1 in0 out 0=0 1=1 2=0.5", (16, 4)),
    ],
    "alias": [
        ("Flatten it 1 1 in0 out", (16,)),
        ("Reshape it 1 1 in0 out 0=16 1=3", (48,)),
        ("ExpandDims it 1 1 in0 out -23303=1,0", (4, 8)),
        ("Split it 1 2 in0 a b", (16,)),
        ("Noop it 1 1 in0 out", (16,)),
    ],
}


@pytest.mark.parametrize(
    ("mode", "line", "shapes"),
    [(mode, line, shapes) for mode, cases in MODES_FOUND.items() for line, *shapes in cases],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_the_mode_is_found_by_trying(mode: str, line: str, shapes: list[tuple[int, ...]]) -> None:
    assert one_layer(line, *shapes).mode == mode


def test_a_network_that_computes_nothing_is_refused() -> None:
    with (
        pytest.raises(ProfileError, match="no layer of the model computes an output"),
        prepared(["Input in0 0 1 in0"], {"in0": feed(7)}),
    ):
        pass


def test_constants_and_words_have_modes_of_their_own() -> None:
    lines = ["MemoryData fixed 0 1 c 0=7", "Input ids 0 1 ids", "Embed words 1 1 ids rows 0=4 1=50 2=0 3=200"]
    with prepared(lines, {"ids": np.array([1, 2, 2], np.int32)}) as found:
        assert found.layer("fixed").mode == "constant"
        words = found.layer("words")
        assert (words.mode, words.raw_bytes) == ("gather", 2 * 4 * 4)


def test_layers_are_told_in_execution_order_with_their_blobs() -> None:
    lines = ["Input in 0 1 in", "ReLU a 1 1 in x", "Split s 1 2 x y z", "BinaryOp b 2 1 y z out 0=0"]
    with prepared(lines, {"in": feed(16, 4, 4)}) as found:
        profile = found.profile
    assert [layer.name for layer in profile.layers] == ["a", "s", "b"]
    assert [layer.index for layer in profile.layers] == [1, 2, 3]
    assert profile.layers[2].inputs == ("y", "z")
    assert profile.outputs == ("out",)
    assert profile.inputs[0][1].numpy_shape == (16, 4, 4)


def test_layouts_are_those_stock_would_use() -> None:
    packed = one_layer("Convolution it 1 1 in0 out 0=16 1=1 5=0 6=256", (16, 4, 4))
    plain = one_layer("Convolution it 1 1 in0 out 0=16 1=1 5=0 6=256", (16, 4, 4), options=RunOptions(packing=False))
    assert packed.input_layouts[0].elempack == packed.output_layouts[0].elempack > 1
    assert plain.input_layouts[0].elempack == plain.output_layouts[0].elempack == 1


# Costs


def conv_line(channels: int, outputs: int, kernel: int = 3) -> str:
    count = channels * outputs * kernel * kernel
    pad = kernel // 2
    return f"Convolution it 1 1 in0 out 0={outputs} 1={kernel} 4={pad} 5=0 6={count}"


def kernel_of(layer: LayerProfile, name: str) -> KernelCost:
    (found,) = (cost for cost in layer.kernels if cost.kernel == name)
    return found


@exact_memory
def test_winograd_keeps_four_times_the_weights_and_sgemm_once() -> None:
    layer = one_layer(conv_line(128, 256), (128, 12, 12))
    raw = layer.raw_bytes
    assert raw == 128 * 256 * 9 * 4
    winograd, sgemm = kernel_of(layer, "default"), kernel_of(layer, "sgemm")
    assert 3.5 * raw < winograd.kept_bytes.at(layer.units) < 8 * raw
    assert 0.9 * raw < sgemm.kept_bytes.at(layer.units) < 1.3 * raw
    assert winograd.load_peak_bytes.at(layer.units) >= winograd.kept_bytes.at(layer.units)


@exact_memory
@pytest.mark.skipif(native.capabilities().tiles_im2col, reason="this ncnn holds one tile of the matrix")
def test_workspace_of_sgemm_is_the_matrix_of_its_windows() -> None:
    layer = one_layer(conv_line(32, 64), (32, 48, 48))
    columns = 32 * 9 * 48 * 48 * 4
    assert 0.8 * columns < kernel_of(layer, "sgemm").run_peak_bytes.at(layer.units) < 1.8 * columns


@exact_memory
def test_half_the_outputs_keep_half_the_weights() -> None:
    kernel = kernel_of(one_layer(conv_line(128, 256), (128, 12, 12)), "sgemm")
    whole, half = kernel.kept_bytes.at(256), kernel.kept_bytes.at(128)
    assert 0.4 * whole < half < 0.6 * whole


@exact_memory
def test_weights_used_where_they_are_keep_nothing() -> None:
    layer = one_layer("InnerProduct it 1 1 in0 out 0=512 1=1 2=524288", (1024,))
    (cost,) = layer.kernels
    assert cost.reads_raw
    assert cost.kept_bytes.at(layer.units) < 0.1 * layer.raw_bytes
    assert (layer.units, layer.blob_axis) == (512, "w")


def test_transformed_weights_are_not_read_raw() -> None:
    layer = one_layer(conv_line(64, 64), (64, 9, 9))
    assert not any(cost.reads_raw for cost in layer.kernels)


@pytest.mark.parametrize("activation", ["", "9=1", "9=3 -23310=2,0.0,6.0"])
@pytest.mark.parametrize("bias", [0, 1])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_weights_that_are_read_where_they_lie_are_kept_whatever_is_fed(
    value: float, bias: int, activation: str
) -> None:
    """Released all the same, they would be read after they are gone."""
    lines = ["Input in 0 1 in", f"InnerProduct it 1 1 in out 0=64 1={bias} 2=65536 {activation}"]
    with prepared(lines, {"in": np.full(1024, value, np.float32)}) as found:
        assert [cost.reads_raw for cost in found.layer("it").kernels if cost.kernel == "in_place"] == [True]


def test_zeros_as_input_hide_nothing() -> None:
    """Transformed weights taken for raw ones stayed loaded, which no plan counted."""
    lines = ["Input in 0 1 in", conv_line(64, 64).replace("in0", "in")]
    with prepared(lines, {"in": np.zeros((64, 9, 9), np.float32)}) as found:
        assert not any(cost.reads_raw for cost in found.layer("it").kernels)


def test_scratch_is_what_the_allocator_places_while_a_layer_computes() -> None:
    layer = one_layer(conv_line(128, 256), (128, 12, 12))
    for cost in layer.kernels:
        live = list(accumulate(cost.events))
        assert live[-1] == 0, "everything is released"
        largest = max(cost.events)
        blocks = sum(size > 0 for size in cost.events)
        peak = cost.run_peak_bytes.at(layer.units)
        assert largest <= max(live) <= peak <= sum(size for size in cost.events if size > 0) + 128 * blocks
        assert cost.run_heap_bytes.at(layer.units) == 0


def test_smaller_parts_need_no_more_scratch_than_was_measured() -> None:
    layer = one_layer(conv_line(64, 256), (64, 24, 24))
    for cost in layer.kernels:
        assert cost.run_peak_bytes.sizes[-1] == layer.units
        assert len(cost.run_peak_bytes.sizes) > 1
        assert cost.run_peak_bytes.values[0] <= cost.run_peak_bytes.values[-1]


def test_slabs_of_fewer_rows_need_less_scratch() -> None:
    cost = kernel_of(one_layer(conv_line(32, 64), (32, 48, 48)), "sgemm")
    assert cost.slabs is not None
    assert cost.slabs.run_peak_bytes.sizes == (3, 6, 12, 24, 48)
    assert list(cost.slabs.run_peak_bytes.values) == sorted(cost.slabs.run_peak_bytes.values)
    assert cost.slabs.run_peak_bytes.at(48) == cost.run_peak_bytes.at(64)


def test_threads_that_allocate_are_given_the_heap() -> None:
    line = "MultiHeadAttention it 1 1 in0 out 0=64 1=2 2=4096 3=64 4=64"
    alone = one_layer(line, (512, 64))
    together = one_layer(line, (512, 64), options=RunOptions(num_threads=2))
    assert alone.kernels[0].events
    assert alone.kernels[0].run_peak_bytes.at(1) > 0
    assert (together.kernels[0].events, together.kernels[0].run_peak_bytes.at(1)) == ((), 0)
    if process_memory.peak_can_restart():
        assert together.kernels[0].run_heap_bytes.at(1) > 512 * 512 * 4


def test_storage_is_measured_on_the_models_own_file() -> None:
    with prepared(["Input in0 0 1 in0", conv_line(64, 64)], {"in0": feed(64, 9, 9)}) as found:
        storage = found.profile.storage
    assert storage is not None
    assert storage.warm_bytes_per_second > 1e6
    assert 0 < storage.warm_latency_seconds < 1
    assert (storage.cold_bytes_per_second > 0) == (storage.cold_latency_seconds > 0)


def test_a_network_of_one_page_or_less_has_no_storage_to_speak_of() -> None:
    with prepared(["Input in0 0 1 in0", "ReLU it 1 1 in0 out"], {"in0": feed(4)}) as found:
        assert found.profile.storage is None


def test_times_are_positive_and_kernels_known() -> None:
    for line, shape in ((conv_line(64, 64), (64, 20, 20)), ("Pooling it 1 1 in0 out 0=0 1=2 2=2", (16, 40, 40))):
        for cost in one_layer(line, shape).kernels:
            assert cost.kernel in KERNELS
            assert cost.compute_seconds.at(64) > 0
            assert min(cost.load_seconds.at(64), cost.kept_bytes.at(64), cost.run_peak_bytes.at(64)) >= 0


def test_a_layer_with_few_weights_is_not_sliced() -> None:
    assert one_layer(conv_line(4, 8), (4, 8, 8)).blob_axis == ""
    assert one_layer(conv_line(128, 64), (128, 8, 8)).blob_axis == "c"


def test_a_large_layer_is_measured_slice_by_slice() -> None:
    inputs = {"in0": feed(128, 6, 6)}
    lines = ["Input in0 0 1 in0", conv_line(128, 256)]
    with prepared(lines, inputs) as whole, prepared(lines, inputs, part_bytes=300_000) as sliced:
        one, other = whole.layer("it"), sliced.layer("it")
        assert (one.units, one.output_layouts, one.mode) == (other.units, other.output_layouts, other.mode)
        kept, in_slices = (kernel_of(layer, "sgemm").kept_bytes.at(256) for layer in (one, other))
    if process_memory.peak_is_exact():
        assert 0.6 * kept < in_slices < 1.6 * kept


def test_layers_alike_are_measured_once() -> None:
    blobs = ["in0", "a", "b", "c"]
    lines = [f"Convolution {b} 1 1 {a} {b} 0=16 1=1 5=0 6=256" for a, b in pairwise(blobs)]
    lines.insert(0, "Input in0 0 1 in0")
    with prepared(lines, {"in0": feed(16, 8, 8)}) as found:
        assert found.layer("b").kernels == found.layer("c").kernels


# Inputs of other shapes


def test_another_shape_takes_what_loading_costs_from_an_earlier_profile(tmp_path: Path) -> None:
    path = tmp_path / "m.param"
    write_random(model_of(["Input in0 0 1 in0", conv_line(64, 128), "ReLU r 1 1 out y"]), path)
    with open_model(path) as model:
        first = profile_model(model, "m", None, {"in0": feed(64, 20, 20)}, RunOptions())
        # figures that no machine would give
        odd = replace(
            first,
            read_seconds_per_byte=123.0,
            layers=tuple(
                replace(
                    layer,
                    kernels=tuple(
                        replace(cost, load_seconds=Linear(7.0, 1.0), kept_bytes=Linear(11.0, 3.0))
                        for cost in layer.kernels
                    ),
                )
                for layer in first.layers
            ),
        )
        second = profile_model(model, "m", None, {"in0": feed(64, 40, 10)}, RunOptions(), earlier=odd)
    (before, _), (after, relu) = first.layers, second.layers
    assert after.output_layouts != before.output_layouts
    for old, new in zip(before.kernels, after.kernels, strict=True):
        assert new.load_seconds == Linear(7.0, 1.0)
        assert new.kept_bytes.at(128) == 11 + 3 * 128
        assert new.reads_raw == old.reads_raw
        assert new.compute_seconds.at(128) < 1
        assert new.run_peak_bytes.at(128) != old.run_peak_bytes.at(128)
    assert second.read_seconds_per_byte == 123.0
    assert relu.kernels[0].load_seconds != Linear(7.0, 1.0), "there is nothing to load"


def test_layers_of_another_name_kind_or_size_are_not_taken_for_the_same() -> None:
    layer = profiles.layer("conv", "in", raw_bytes=64, units=64, blob_axis="c", kernels=(profiles.cost(),))
    known = KnownLoads(profiles.model(layer))
    model = model_of(["Input in 0 1 in", "Convolution conv 1 1 in out 0=64 1=1 6=64"])
    read = next(one for one in model.layers if one.name == "conv")
    axis = Axis("outputs", 64, 16, True, "c")
    assert known.of(read, 64, axis, "default") == profiles.cost()
    assert known.of(read, 64, axis, "sgemm") is None
    assert known.of(read, 65, axis, "default") is None
    assert known.of(read, 64, None, "default") is None
    assert known.of(replace(read, name="other"), 64, axis, "default") is None
    hungry = profiles.cost(run_heap_bytes=1_000_000)
    assert KnownLoads(profiles.model(replace(layer, kernels=(hungry,)))).of(read, 64, axis, "default") is None
    assert KnownLoads(None).of(read, 64, axis, "default") is None


# What cannot be


def test_an_input_must_be_given(tmp_path: Path) -> None:
    path = tmp_path / "m.param"
    write_random(model_of(["Input in 0 1 in", "ReLU r 1 1 in out"]), path)
    with open_model(path) as model, pytest.raises(InputError, match="no input is given for blob 'in'"):
        profile_model(model, "", None, {}, RunOptions())


def test_outputs_of_unknown_size_are_refused_by_name() -> None:
    line = "DetectionOutput it 3 1 in0 in1 in2 out 0=2"
    with pytest.raises(ProfileError, match="layer 'it'"):
        one_layer(line, (8,), (8,), (2, 8))


def test_progress_counts_the_layers(tmp_path: Path) -> None:
    path = tmp_path / "m.param"
    write_random(model_of(["Input in 0 1 in", "ReLU r 1 1 in x", "AbsVal a 1 1 x out"]), path)
    told: list[tuple[str, int, int]] = []
    with open_model(path) as model:
        profile_model(model, "", None, {"in": feed(4)}, RunOptions(), progress=lambda *what: told.append(what))
    walk = [report[1:] for report in told if report[0] == "profiling layers"]
    passes = [report[1:] for report in told if report[0] == "timing layers"]
    assert walk == [(1, 2), (2, 2)]
    assert [done for done, _ in passes[:-1]] == list(range(len(passes) - 1))  # no more than tell something new
    assert passes[-1][0] == passes[-1][1]


# The zoo


@contextmanager
def zoo(name: str, folder: Path, *shape: int) -> Iterator[Prepared]:
    """A graph of the zoo with random weights."""
    path = folder / f"{name}.param"
    write_random(read_param(MODELS / f"{name}.param"), path)
    inputs: dict[str, Array] = {"in0": feed(*shape)}
    with prepared_files(path, inputs) as found:
        yield found


@pytest.mark.parametrize("name", ["squeezenet11", "mobilenetv2"])
def test_the_arena_of_a_real_network_is_near_its_lower_bound(name: str, tmp_path: Path) -> None:
    with zoo(name, tmp_path, 3, 224, 224) as found:
        buffers = blob_problem(found.profile).buffers
        _, size = place(buffers)
        assert size <= 1.02 * max(live_bytes(buffers, len(found.profile.layers)))
