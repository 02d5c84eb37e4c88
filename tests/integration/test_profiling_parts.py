"""The parts that profiling is made of: what is computed on the way is right, and memory is where it is said to be."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import cycle
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexnn_ncnn.profiling import memory, storage
from flexnn_ncnn.profiling.bench import Bench
from flexnn_ncnn.profiling.blobs import LiveBlobs
from flexnn_ncnn.profiling.compute import compute_layer
from flexnn_ncnn.profiling.costs import layer_profile
from flexnn_ncnn.profiling.cutting import part_spans, slab_sizes, small_part_units
from flexnn_ncnn.profiling.facts import LayerFacts, ProfileLimits
from flexnn_ncnn.profiling.heap_use import used_bytes
from flexnn_ncnn.profiling.kernels import candidate_kernels
from flexnn_ncnn.profiling.known import KnownLoads
from flexnn_ncnn.profiling.pool import BlobPool
from flexnn_ncnn.profiling.scratch import ScratchRegion
from flexnn_ncnn.profiling.storage import measure_storage
from flexnn_ncnn.profiling.timing import time_layers
from flexnn_ncnn.profiling.walk import Walk
from flexnn_ncnn.records.layout import BlobLayout
from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.runtime import native
from flexnn_ncnn.runtime.native import StockNet
from param_tools.graph import Layer
from param_tools.model_io import open_model
from param_tools.slicing.rule import Axis
from tests.integration.pipeline import Array, feed, prepared
from tests.property.slicing_stock import model_of, write_random

VECTOR = BlobLayout(dims=1, w=1000, h=1, d=1, c=1, elemsize=4, elempack=1)
NETWORK = [
    "Input in0 0 1 in0",
    "Convolution stem 1 1 in0 a 0=32 1=3 4=1 5=1 6=864 9=1",
    "Split split 1 2 a a1 a2",
    "ConvolutionDepthWise dw 1 1 a1 b 0=32 1=3 4=1 5=1 6=288 7=32",
    "Convolution wide 1 1 b c 0=32 1=3 4=1 5=1 6=9216",
    "BinaryOp add 2 1 a2 c d 0=0",
    "ReLU relu 1 1 d e",
    "Noop noop 1 1 e f",
    "Pooling pool 1 1 f g 0=0 1=2 2=2",
    "Reshape flat 1 1 g h 0=-1",
    "InnerProduct fc 1 1 h out 0=100 1=1 2=460800",
]


@contextmanager
def walked(
    tmp_path: Path,
    inputs: dict[str, Array],
    part_bytes: int,
    bound_bytes: int | None = None,
    lines: Sequence[str] = NETWORK,
) -> Iterator[tuple[Bench, list[LayerFacts]]]:
    """The network after a walk through it."""
    path = tmp_path / "m.param"
    write_random(model_of(lines), path)
    limits = ProfileLimits(part_bytes, bound_bytes=bound_bytes, idle_bytes=1)
    with open_model(path) as model, closing(Bench(model, RunOptions(), limits)) as bench:
        walk = Walk(bench, inputs, KnownLoads(None))
        order = [i for i in model.model.topological_order() if model.model.layers[i].type != "Input"]
        yield bench, [walk.layer(index) for index in order]


@pytest.mark.parametrize(("part_bytes", "bound_bytes"), [(16_000_000, None), (100_000, None), (16_000_000, 1)])
def test_passes_compute_what_stock_does_with_every_kernel(
    part_bytes: int, bound_bytes: int | None, tmp_path: Path
) -> None:
    inputs = {"in0": feed(3, 24, 24)}
    with walked(tmp_path, inputs, part_bytes, bound_bytes) as (bench, layers):
        assert any(facts.slab_rows for facts in layers) == (bound_bytes is not None)
        net = StockNet(str(bench.model.param_path), str(bench.model.bin_path), bench.options)
        wanted = net.run(inputs, ["out"])["out"]
        net.close()
        bench.begin_timing()
        assert {len(facts.kernels) for facts in layers} == {0, 1, 3}
        for number in range(3):
            blobs = LiveBlobs(bench.model.model, inputs, bench)
            found: dict[str, float] = {}
            for facts in layers:
                computed = compute_layer(bench, facts, number, blobs, timed=True)
                found[facts.layer.name] = computed.seconds
                assert computed.convert_seconds >= 0
                assert {sample.units for sample in computed.samples} >= {b - a for a, b in facts.spans[1:]}
                blobs.passed(facts.layer)
            np.testing.assert_allclose(native.mat_to_array(blobs["out"]), wanted, atol=1e-4 * np.abs(wanted).max())
            assert min(found[name] for name in ("stem", "wide", "add", "fc")) > 0


@pytest.mark.parametrize(
    "line",
    [
        "ConvolutionDepthWise one 1 1 in0 out 0=512 1=3 4=1 5=1 6=4608 7=512",
        "ConvolutionDepthWise one 1 1 in0 out 0=512 1=5 4=2 5=1 6=12800 7=512",
        "Pooling one 1 1 in0 out 0=0 1=3 3=1 5=1",
        "Pooling one 1 1 in0 out 0=0 1=2 2=2 3=1 5=1",
    ],
)
def test_one_row_at_a_time_where_a_window_reaches_over_the_edge(line: str, tmp_path: Path) -> None:
    inputs = {"in0": feed(512, 16, 16)}
    with walked(tmp_path, inputs, 16_000_000, 1, ["Input in0 0 1 in0", line]) as (bench, (facts,)):
        net = StockNet(str(bench.model.param_path), str(bench.model.bin_path), bench.options)
        wanted = net.run(inputs, ["out"])["out"]
        net.close()
        assert facts.slab_rows == 1
        assert facts.output_layouts[0].numpy_shape == wanted.shape
        blobs = LiveBlobs(bench.model.model, inputs, bench)
        compute_layer(bench, facts, 0, blobs)
        np.testing.assert_allclose(native.mat_to_array(blobs["out"]), wanted, atol=1e-5)


def test_of_layers_alike_a_few_are_timed_and_those_before_them(tmp_path: Path) -> None:
    count = 9
    blocks = [
        line
        for i in range(count)
        for line in (
            f"Convolution c{i} 1 1 a{i} b{i} 0=32 1=3 4=1 5=1 6=9216",
            f"Pooling p{i} 1 1 b{i} c{i} 0=0 1=3 3=1",
            f"TanH t{i} 1 1 c{i} a{i + 1}",
        )
    ]
    with walked(tmp_path, {"a0": feed(32, 12, 12)}, 16_000_000, lines=["Input in 0 1 a0", *blocks]) as (bench, layers):
        timings = time_layers(bench, layers, {"a0": feed(32, 12, 12)}, None)
        kernels = [kernel.kernel for kernel in layers[3].kernels]
        assert len(kernels) == 3

        def places(index: int, kernel: str) -> list[int]:
            return [len(samples) for samples in timings.of(layers[index], kernel, layers[index].part_units)]

        # the first has another layout to read
        assert all(set(places(3, kernel)) == {4} and set(places(0, kernel)) == {1} for kernel in kernels)
        rounds = len(places(3, "sgemm"))
        assert rounds >= bench.limits.least_rounds
        # what runs before a convolution does in the passes of its other kernels, too
        assert places(2, "default") == [4] * rounds * 3
        assert places(1, "default") == [4] * rounds
        assert all(layer_profile(facts, timings, 0.0).kernels[0].compute_seconds.at(1) > 0 for facts in layers)


def test_rounds_end_when_they_tell_nothing_new_or_take_too_long(tmp_path: Path) -> None:
    inputs = {"in0": feed(3, 24, 24)}
    with walked(tmp_path, inputs, 16_000_000) as (bench, layers):

        def rounds(limits: ProfileLimits) -> int:
            bench.limits = limits
            return len(time_layers(bench, layers, inputs, None).of(layers[0], "default", layers[0].part_units))

        assert rounds(ProfileLimits(timing_seconds=0.0, least_rounds=1)) == 1
        assert rounds(ProfileLimits(timing_seconds=0.0, least_rounds=3)) == 3
        assert rounds(ProfileLimits(timing_seconds=1e9, least_rounds=1, most_rounds=1000)) < 1000


def test_what_others_still_read_is_not_overwritten(tmp_path: Path) -> None:
    with walked(tmp_path, {"in0": feed(3, 24, 24)}, 16_000_000) as (bench, _):
        layers = {layer.name: layer for layer in bench.model.model.layers}
        blobs = LiveBlobs(bench.model.model, {"in0": feed(3, 24, 24)}, bench)
        mine = bench.blob(VECTOR, layers["relu"])
        blobs.put("d", mine.mat, mine)
        assert blobs.to_overwrite(layers["relu"], blobs.wanted("d", VECTOR), mine.allocator) is mine
        blobs.put("another", mine.mat, mine)
        copy = blobs.to_overwrite(layers["relu"], blobs.wanted("d", VECTOR), mine.allocator)
        assert copy is not mine
        assert native.data_address(copy.mat) != native.data_address(mine.mat)


def test_a_pool_uses_memory_again_and_never_twice_at_once() -> None:
    pool = BlobPool()
    first, second = pool.blob(VECTOR), pool.blob(VECTOR)
    low, high = native.data_address(first.mat), native.data_address(second.mat)
    assert high - low >= VECTOR.size_bytes + 64
    del first
    gc.collect()
    third, fourth = pool.blob(VECTOR), pool.blob(VECTOR)
    assert native.data_address(third.mat) == low
    assert native.data_address(fourth.mat) > high
    assert {address % 64 for address in (low, high)} == {0}


def test_scratch_counts_from_its_begin_each_time() -> None:
    region = ScratchRegion()
    option = region.allocator.attach(native.make_option(RunOptions()))
    source = native.mat_from_array(feed(16, 10, 10))
    for _ in range(2):
        with region.watch() as found:
            padded = native.padded(source, 1, 1, 1, 1, 0.0, option)
            del padded
        assert found.events[0] >= 16 * 12 * 12 * 4
        assert sum(found.events) == 0
        assert found.peak_bytes >= found.events[0]
    with region.watch() as nothing:
        pass
    assert (nothing.peak_bytes, nothing.events) == (0, ())


def test_the_heap_in_use_is_told() -> None:
    before = used_bytes()
    block = np.ones(50_000_000, np.uint8)
    assert 45_000_000 < used_bytes() - before < 60_000_000
    del block


# Storage


def test_a_file_is_read_past_the_cache_where_that_can_be(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(os.urandom(3_000_000))
    found = measure_storage(path)
    assert found is not None
    assert min(found.warm_bytes_per_second, found.warm_latency_seconds) > 0
    assert (found.cold_bytes_per_second > 0) == (found.cold_latency_seconds > 0)


def test_a_file_system_without_such_reads_has_no_cold_rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(100_000))
    monkeypatch.setattr(storage, "_DIRECT", 0)
    found = measure_storage(path)
    assert found is not None
    assert (found.cold_bytes_per_second, found.cold_latency_seconds) == (0.0, 0.0)
    assert found.warm_bytes_per_second > 0


def test_a_file_of_less_than_a_page_tells_nothing(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"few")
    assert measure_storage(path) is None


# What to measure


def convolution(**params: int) -> Layer:
    text = " ".join(f"{key[1:]}={value}" for key, value in params.items())
    return model_of(["Input in 0 1 in", f"Convolution conv 1 1 in out {text}"]).layers[-1]


def plane(extent: int, channels: int = 64) -> BlobLayout:
    return BlobLayout(dims=3, w=extent, h=extent, d=1, c=channels, elemsize=4, elempack=1)


def test_other_kernels_are_measured_where_weights_are_used_at_few_places() -> None:
    square = convolution(p0=64, p1=3, p4=1, p6=36864)
    assert candidate_kernels(square, plane(56), RunOptions()) == ("default", "winograd23", "sgemm")
    assert candidate_kernels(square, plane(57), RunOptions()) == ("default",)
    assert candidate_kernels(convolution(p0=64, p1=3, p3=2, p4=1, p6=36864), plane(28), RunOptions()) == ("default",)
    assert candidate_kernels(convolution(p0=64, p1=1, p6=4096), plane(28), RunOptions()) == ("default",)


@given(
    st.integers(1, 4096), st.sampled_from([1, 2, 4, 8, 16]), st.integers(1, 64), st.booleans(), st.integers(1, 10**8)
)
def test_a_small_part_is_smaller_and_cut_where_it_may_be(
    granules: int, granularity: int, least: int, odd: bool, raw_bytes: int
) -> None:
    units = granules * granularity
    axis = Axis("outputs", units, granularity, True, "c", least, odd and granules % 2 == 1)
    (begin, end), *_ = part_spans(axis, raw_bytes, 1_000_000)
    small = small_part_units(axis, end)
    assert begin == 0
    assert 0 <= small < end
    assert small % granularity == 0
    assert not (small and axis.odd) or small // granularity % 2 == 1


def test_slabs_are_tried_where_the_workspace_is_large() -> None:
    square = convolution(p0=64, p1=3, p4=1, p6=36864)
    assert slab_sizes(square, plane(100), "sgemm", 100_000) == ()
    assert [slabs[0].end for slabs in slab_sizes(square, plane(100), "sgemm", 10**6)] == [7, 13, 25, 50]
    assert [slabs[0].end for slabs in slab_sizes(square, plane(100), "default", 10**6)] == [12, 24, 36, 60]
    for slabs in slab_sizes(square, plane(100), "default", 10**6):
        assert slabs[-1].end == 100


def test_slabs_save_no_more_than_there_is_whatever_the_machine_did_meanwhile() -> None:
    """The whole layer is timed as an hour, its slabs as nothing."""
    lines = ["Input in 0 1 in", "Convolution conv 1 1 in out 0=64 1=3 4=1 6=36864"]
    timed = mock.patch.object(memory._Trial, "_seconds", side_effect=cycle([3600.0, 1e-9, 1e-9, 1e-9, 1e-9]))
    with timed, prepared(lines, {"in": feed(64, 40, 40)}) as found:
        (layer,) = found.profile.layers
        assert any(cost.slabs for cost in layer.kernels)
        assert all(choice.seconds >= 0 for choices in found.work.choices for choice in choices)
