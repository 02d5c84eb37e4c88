"""Running plans: the same answer as stock ncnn, again and again, from nothing but what the plan says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flexnn_ncnn.errors import InputError
from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.runtime.executor import Executor
from flexnn_ncnn.runtime.memory.returns import free_ranges
from param_tools.encoding import Encoding
from param_tools.errors import ModelFormatError
from param_tools.model_io import read_param
from tests.integration.pipeline import Array, Prepared, assert_close, budgets, feed, prepared, prepared_files, step_of
from tests.property.slicing_stock import write_random

pytestmark = pytest.mark.patched

MODELS = Path(__file__).resolve().parents[2] / "models"
IMAGE = (3, 224, 224)
CHAIN = [
    "Input in 0 1 in",
    "Convolution c1 1 1 in a 0=64 1=3 4=1 5=1 6=27648 9=1",
    "Split s 1 2 a x y",
    "Convolution c2 1 1 x b 0=64 1=3 4=1 5=1 6=36864",
    "BinaryOp add 2 1 b y sum 0=0",
    "ReLU relu 1 1 sum r",
    "Pooling pool 1 1 r p 0=0 1=2 2=2",
    "InnerProduct fc 1 1 p out 0=200 1=1 2=460800",
]
CHAIN_INPUT = (48, 12, 12)


@contextmanager
def zoo(name: str, folder: Path, feeds: dict[str, Array]) -> Iterator[Prepared]:
    """A graph of the zoo with random weights, profiled in slices."""
    path = folder / f"{name}.param"
    write_random(read_param(MODELS / f"{name}.param"), path)
    with prepared_files(path, feeds, part_bytes=4_000_000) as found:
        yield found
    path.with_suffix(".bin").unlink()


@contextmanager
def chain(options: RunOptions | None = None, **arguments: object) -> Iterator[Prepared]:
    with prepared(CHAIN, {"in": feed(*CHAIN_INPUT)}, options, **arguments) as found:  # type: ignore[arg-type]
        yield found


def check_at_all_budgets(found: Prepared, count: int, tolerance: float) -> None:
    stock = found.stock()
    for budget_bytes in budgets(found.least_bytes, found.least_bytes + 4 * found.opened.bin_path.stat().st_size, count):
        assert_close(found.run(found.plan(budget_bytes)), stock, tolerance)


@pytest.mark.parametrize("name", ["squeezenet11", "mobilenetv2"])
def test_real_networks_answer_as_stock(name: str, tmp_path: Path) -> None:
    with zoo(name, tmp_path, {"in0": feed(*IMAGE)}) as found:
        check_at_all_budgets(found, 3, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet152", "vit_b16_mha", "vit_b16_sdpa", "vgg19", "gpt2_124m"])
def test_large_networks_answer_as_stock(name: str, tmp_path: Path) -> None:
    words = np.random.default_rng(0).integers(0, 50257, 64).astype(np.int32)
    feeds: dict[str, Array] = {"in0": words if name == "gpt2_124m" else feed(*IMAGE)}
    with zoo(name, tmp_path, feeds) as found:
        check_at_all_budgets(found, 3, 1e-3)


OPTIONS = [RunOptions(), RunOptions(2), RunOptions(packing=False), RunOptions(fp16=True), RunOptions(bf16=True)]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_answers_as_stock(options: RunOptions) -> None:
    with chain(options) as found:
        check_at_all_budgets(found, 2 if options.num_threads > 1 else 4, 2e-2 if options.fp16 or options.bf16 else 1e-4)


@pytest.mark.parametrize("encoding", [Encoding.FP16, Encoding.TABLE, Encoding.FP32_RAW], ids=str)
def test_every_encoding_answers_as_stock(encoding: Encoding) -> None:
    with chain(encoding=encoding, cut_all=True) as found:
        check_at_all_budgets(found, 4, 1e-4)


INT8 = {
    "convolution": "Convolution it 1 1 in out 0=32 1=3 4=1 5=1 6=13824 8=2",
    "requantized": "Convolution it 1 1 in out 0=32 1=3 4=1 5=1 6=13824 8=102",
    "depthwise": "ConvolutionDepthWise it 1 1 in out 0=48 1=3 4=1 5=1 6=432 7=48 8=1",
    "inner product": "InnerProduct it 1 1 in out 0=40 1=1 2=276480 8=2",
}


@pytest.mark.parametrize("name", INT8)
def test_int8_layers_answer_as_stock(name: str) -> None:
    lines = ["Input in 0 1 in", INT8[name]]
    with prepared(lines, {"in": feed(*CHAIN_INPUT)}, encoding=Encoding.INT8, cut_all=True) as found:
        check_at_all_budgets(found, 3, 1e-5)


@pytest.mark.parametrize("channels", [20, 24, 34, 72])
def test_depthwise_slices_are_packed_like_the_whole(channels: int) -> None:
    """Otherwise ncnn writes outside its memory."""
    line = f"ConvolutionDepthWise it 1 1 in out 0={channels} 1=3 4=1 5=1 6={9 * channels} 7={channels}"
    with prepared(["Input in 0 1 in", line], {"in": feed(channels, 9, 7)}, cut_all=True) as found:
        granule = int(np.gcd(channels, 16))
        for units in range(granule, channels, 2 * granule):
            plan = found.plan_of([replace(found.work.choices[0][0], part_units=units, slab_rows=0)])
            sizes = [part.end - part.begin for part in plan.steps[0].parts]
            assert [size // granule % 2 for size in sizes] == [1] * len(sizes)
            assert_close(found.run(plan), found.stock(), 1e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_slabs_at_odd_addresses_answer_as_stock(threads: int) -> None:
    """Rows of 5 values begin at no multiple of 16 bytes, where an activation of ncnn's would crash."""
    line = "Convolution it 1 1 in out 0=3 1=3 5=1 6=432 9=2 -23310=1,0.1"
    with prepared(["Input in 0 1 in", line], {"in": feed(16, 11, 7)}, RunOptions(threads), cut_all=True) as found:
        for rows in (1, 2, 3, 4):
            plan = found.plan_of([replace(found.work.choices[0][0], part_units=3, slab_rows=rows)])
            assert len(plan.steps[0].slabs) == -(-9 // rows)
            assert_close(found.run(plan), found.stock(), 1e-4)


def test_a_plan_that_leaves_everything_to_ncnn_is_bit_identical() -> None:
    with chain(RunOptions(packing=False)) as found:
        chosen = [
            next((c for c in choices if c.resident and c.part_units == layer.units and not c.slab_rows), None)
            for layer, choices in zip(found.profile.layers, found.work.choices, strict=True)
        ]
        chosen = [
            replace(choice, kernel=layer.kernels[0].kernel) if choice else None
            for choice, layer in zip(chosen, found.profile.layers, strict=True)
        ]
        assert all(choice or not layer.kernels for choice, layer in zip(chosen, found.profile.layers, strict=True))
        assert_close(found.run(found.plan_of(chosen)), found.stock(), 0)


def test_runs_repeat_and_leave_the_input_alone() -> None:
    with chain(cut_all=True) as found:
        for budget_bytes in budgets(found.least_bytes, 4_000_000, 3):
            array = feed(*CHAIN_INPUT)
            with Executor(found.plan(budget_bytes), found.opened.bin_path) as executor:
                first = executor.run({"in": array})
                other = executor.run({"in": feed(*CHAIN_INPUT, seed=1)})
                again = executor.run({"in": array.copy()})
            np.testing.assert_array_equal(array, feed(*CHAIN_INPUT))
            assert_close(again, first, 0)
            assert_close(other, found.stock(inputs={"in": feed(*CHAIN_INPUT, seed=1)}), 1e-4)


@pytest.mark.parametrize("layer", ["ReLU it 1 1 in out", "Flatten it 1 1 in out", "Softmax it 1 1 in out 0=0 1=1"])
@pytest.mark.parametrize("shape", [(16,), (3, 5), (16, 2, 3), (3, 5, 7)])
def test_what_the_caller_feeds_is_never_written_to(layer: str, shape: tuple[int, ...]) -> None:
    with prepared(["Input in 0 1 in", layer], {"in": feed(*shape)}) as found:
        array = feed(*shape)
        outputs = found.run(found.plan(), {"in": array})
        np.testing.assert_array_equal(array, feed(*shape))
        assert not np.shares_memory(outputs["out"], array)
        assert_close(outputs, found.stock(), 1e-6)


OVERLAYS = {
    "after a layer that must not have an allocator": (
        [
            "Input in0 0 1 in0",
            "Split split 1 2 in0 a b",
            "MultiHeadAttention attention 1 1 a c 0=8 1=2 2=64 3=8 4=8",
            "BinaryOp add 2 1 c b d 0=0",
        ],
        (5, 8),
    ),
    "of three inputs of which two are one": (
        [
            "Input in0 0 1 in0",
            "ExpandDims expanded 1 1 in0 a -23303=1,1",
            "Split first 1 4 a b c d e",
            "Softmax softmax 1 1 b f 0=1 1=1",
            "Eltwise one 3 1 f c d g 0=0",
            "Split second 1 2 g h i",
            "Eltwise other 3 1 h e i j 0=0",
        ],
        (3, 16),
    ),
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", OVERLAYS)
def test_layers_that_write_over_an_input_answer_as_stock(case: str, threads: int) -> None:
    layers, shape = OVERLAYS[case]
    with prepared(layers, {"in0": feed(*shape)}, RunOptions(num_threads=threads)) as found:
        assert_close(found.run(found.plan()), found.stock(), 0)
        assert_close(found.run(found.plan(found.least_bytes)), found.stock(), 1e-5)


def test_results_are_the_callers_to_keep() -> None:
    with chain() as found, Executor(found.plan(found.least_bytes), found.opened.bin_path) as executor:
        first = executor.run(found.inputs)["out"]
        copy = first.copy()
        executor.run({"in": feed(*CHAIN_INPUT, seed=1)})
        np.testing.assert_array_equal(first, copy)
        first[:] = 0
        np.testing.assert_array_equal(executor.run(found.inputs)["out"], copy)


def test_executors_take_turns() -> None:
    with ExitStack() as stack:
        one = stack.enter_context(chain())
        lines = ["Input in 0 1 in", "Convolution c 1 1 in out 0=96 1=3 5=1 6=41472"]
        other = stack.enter_context(prepared(lines, {"in": feed(*CHAIN_INPUT)}))
        runs = [
            (stack.enter_context(Executor(found.plan(budget_bytes), found.opened.bin_path)), found)
            for found in (one, other)
            for budget_bytes in (found.least_bytes, 10**8)
        ]
        for _ in range(3):
            for executor, found in runs:
                assert_close(executor.run(found.inputs), found.stock(), 1e-4)
        runs[0][0].close()
        assert_close(runs[1][0].run(one.inputs), one.stock(), 1e-4)


def test_the_trace_counts_what_was_streamed() -> None:
    with chain() as found:
        for budget_bytes in (found.least_bytes, 10**8):
            plan = found.plan(budget_bytes)
            with Executor(plan, found.opened.bin_path) as executor:
                for _ in range(2):
                    executor.run(found.inputs)
                    assert executor.trace.streamed_bytes == plan.streamed_bytes
                    assert executor.trace.seconds >= executor.trace.load_seconds >= 0
        assert plan.streamed_bytes == 0
        assert all(step.resident for step in plan.steps)


def test_resident_layers_are_read_once(tmp_path: Path) -> None:
    with chain() as found:
        copy = tmp_path / "copy.bin"
        copy.write_bytes(found.opened.bin_path.read_bytes())
        plan = found.plan(10**8)
        plan = replace(plan, steps=tuple(replace(step, reads_raw=False) for step in plan.steps if step.name != "fc"))
        plan = replace(plan, outputs=("p",))
        with Executor(plan, copy) as executor:
            before = executor.run(found.inputs)["p"]
            np.testing.assert_array_equal(executor.run(found.inputs)["p"], before)
            assert executor.trace.streamed_bytes == 0


# What is refused


def test_inputs_are_checked() -> None:
    with chain() as found, Executor(found.plan(), found.opened.bin_path) as executor:
        for inputs, message in (
            ({}, "in"),
            ({"in": feed(*CHAIN_INPUT), "more": feed(1)}, "more"),
            ({"in": feed(3, 3, 3)}, "in"),
            ({"in": feed(*CHAIN_INPUT).astype(np.float64)}, "float64"),
        ):
            with pytest.raises(InputError, match=message):
                executor.run(inputs)
        assert_close(executor.run(found.inputs), found.stock(), 1e-4)


def test_arrays_in_any_order_are_taken() -> None:
    with chain() as found, Executor(found.plan(), found.opened.bin_path) as executor:
        array = np.asfortranarray(feed(*CHAIN_INPUT))
        assert_close(executor.run({"in": array}), found.stock(), 1e-4)


def test_a_file_that_is_not_the_plans_is_an_error(tmp_path: Path) -> None:
    with chain() as found:
        short = tmp_path / "short.bin"
        short.write_bytes(found.opened.bin_path.read_bytes()[:-4000])
        with pytest.raises(ModelFormatError, match=r"short\.bin: ends before the weights"):
            Executor(found.plan(), short)
        with pytest.raises(ModelFormatError, match=r"none\.bin: cannot be read"):
            Executor(found.plan(), tmp_path / "none.bin")


def test_closing_twice_is_fine_and_an_error_leaves_the_next_run_alone(tmp_path: Path) -> None:
    with chain() as found:
        copy = tmp_path / "copy.bin"
        whole = found.opened.bin_path.read_bytes()
        copy.write_bytes(whole)
        executor = Executor(found.plan(found.least_bytes), copy)
        os.truncate(copy, 100)
        with pytest.raises(ModelFormatError, match="was written to while it was in use"):
            executor.run(found.inputs)
        executor.close()
        executor.close()
        copy.write_bytes(whole)
        with Executor(found.plan(found.least_bytes), copy) as again:
            assert_close(again.run(found.inputs), found.stock(), 1e-4)


def test_steps_are_what_the_budget_asks_for() -> None:
    with chain() as found:
        least, most = found.plan(found.least_bytes), found.plan(10**8)
        assert not step_of(least, "fc").resident
        assert len(step_of(least, "fc").parts) > len(step_of(most, "fc").parts) == 1


def test_memory_given_back_before_every_step_changes_nothing() -> None:
    with chain() as found:
        plan = found.plan(found.least_bytes + 1_000_000)
        everywhere = tuple(replace(step, returns_arena=True, returns_heap=True) for step in plan.steps)
        stock = found.stock()
        with Executor(replace(plan, steps=everywhere), found.opened.bin_path) as executor:
            for _ in range(3):
                assert_close(executor.run(found.inputs), stock, 1e-5)


def test_a_step_gives_back_all_of_the_arena_but_what_somebody_still_needs() -> None:
    with chain() as found:
        plan = found.plan(found.least_bytes)
        for number, step in enumerate(plan.steps):
            free = free_ranges(plan, number)
            needed = [place for place in plan.placements if place.begin <= number < place.end]
            spans = [(one.offset_bytes, one.offset_bytes + one.size_bytes) for one in needed]
            if step.scratch_bytes:
                spans.append((step.scratch_offset_bytes, step.scratch_offset_bytes + step.scratch_bytes))
            assert all(end <= first or last <= begin for begin, end in free for first, last in spans)
            taken = sum(end - begin for begin, end in spans)
            assert sum(end - begin for begin, end in free) >= plan.arena_bytes - taken - 128 * len(spans)
