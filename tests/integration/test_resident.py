"""Resident layers handed from one plan's vehicle to the next."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace

import pytest

from flexnn_ncnn.records.plan import Plan, WeightPiece
from flexnn_ncnn.runtime import native
from flexnn_ncnn.runtime.advance import SLACK_BYTES, LoadAhead
from flexnn_ncnn.runtime.executor import Executor
from flexnn_ncnn.runtime.vehicles import StockVehicle, open_plan
from flexnn_ncnn.runtime.weights.resident import ResidentLayers, resident_keys
from flexnn_ncnn.runtime.weights.weight_source import WeightSource
from tests.integration.pipeline import Prepared, assert_close, feed, prepared

pytestmark = pytest.mark.patched

LAYERS = [
    "Input in0 0 1 in0",
    "Convolution conv0 1 1 in0 a 0=32 1=3 4=1 5=1 6=864 9=1",
    "Convolution conv1 1 1 a b 0=32 1=3 4=1 5=1 6=9216 9=1",
    "Convolution conv2 1 1 b c 0=16 1=3 4=1 5=1 6=4608",
    "InnerProduct fc 1 1 c out0 0=24 1=1 2=98304",
]


@pytest.fixture(scope="module")
def model() -> Iterator[Prepared]:
    with prepared(LAYERS, {"in0": feed(3, 16, 16)}) as found:
        yield found


def some_resident(plan: Plan, *names: str) -> Plan:
    """The plan with the layers of these names resident and all others with weights streamed."""
    steps = tuple(
        replace(step, resident=step.name in names or not step.weight_bytes, kernel="default") for step in plan.steps
    )
    return replace(plan, steps=steps, heap_bytes=4_000_000)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Offsets in the .bin of all weights that are loaded from now on."""
    offsets: list[int] = []
    load = WeightSource.load

    def counted(self: WeightSource, pieces: tuple[WeightPiece, ...]) -> object:
        offsets.extend(piece.offset_bytes for piece in pieces)
        return load(self, pieces)

    monkeypatch.setattr(WeightSource, "load", counted)
    return offsets


def offsets_of(plan: Plan, name: str) -> set[int]:
    return {
        piece.offset_bytes for step in plan.steps if step.name == name for part in step.parts for piece in part.pieces
    }


def load_peak_bytes(plan: Plan, name: str) -> int:
    return max(part.load_peak_bytes for step in plan.steps if step.name == name for part in step.parts)


def test_what_both_plans_keep_is_not_loaded_again(model: Prepared, loaded: list[int]) -> None:
    plan = model.plan()
    expected = model.stock()
    bin_path = model.opened.bin_path
    first = Executor(some_resident(plan, "conv0", "conv1"), bin_path, threaded=False)
    assert_close(first.run(model.inputs), expected, 1e-5)
    kept = first.hand_over()
    loaded.clear()
    with open_plan(some_resident(plan, "conv1", "fc"), model.opened.param_path, bin_path, kept) as second:
        assert set(loaded) == offsets_of(plan, "fc")
        for _ in range(3):
            assert_close(second.run(model.inputs), expected, 1e-5)
        assert kept.take(next(resident_keys(plan))) is None  # what nobody wants is not kept


def test_layers_go_there_and_back_through_several_plans(model: Prepared, loaded: list[int]) -> None:
    plan = model.plan()
    expected = model.stock()
    vehicle = open_plan(some_resident(plan, "conv1"), model.opened.param_path, model.opened.bin_path)
    for names in (("conv1", "fc"), ("conv1", "conv2", "fc"), ("conv1",), ("conv0", "conv1", "conv2", "fc")):
        kept = vehicle.hand_over()
        vehicle = open_plan(some_resident(plan, *names), model.opened.param_path, model.opened.bin_path, kept)
        assert_close(vehicle.run(model.inputs), expected, 1e-5)
    vehicle.close()
    weights = [offset for offset in loaded if offset in offsets_of(plan, "conv1")]
    assert len(weights) == len(offsets_of(plan, "conv1"))


def test_what_is_computed_another_way_is_loaded_anew(model: Prepared, loaded: list[int]) -> None:
    plan = some_resident(model.plan(), "conv1")
    steps = tuple(replace(step, kernel="sgemm") if step.name == "conv1" else step for step in plan.steps)
    kept = Executor(plan, model.opened.bin_path, threaded=False).hand_over()
    loaded.clear()
    with Executor(replace(plan, steps=steps), model.opened.bin_path, kept, threaded=False) as second:
        assert set(loaded) == offsets_of(plan, "conv1")
        assert_close(second.run(model.inputs), model.stock(), 1e-5)


def test_layers_of_another_model_are_not_taken(model: Prepared, loaded: list[int]) -> None:
    plan = some_resident(model.plan(), "conv1")
    kept = Executor(plan, model.opened.bin_path, threaded=False).hand_over()
    loaded.clear()
    with Executor(replace(plan, model_id="another"), model.opened.bin_path, kept, threaded=False):
        assert set(loaded) == offsets_of(plan, "conv1")


def test_layers_with_the_same_weights_are_each_loaded_and_handed_over(model: Prepared) -> None:
    plan = some_resident(model.plan(), "conv1")
    keys = list(resident_keys(plan))
    key = next(key for key in keys if key[-1])  # the one with weights
    kept = Executor(plan, model.opened.bin_path, threaded=False).hand_over()
    layer = kept.take(key)
    assert layer is not None
    other = Executor(plan, model.opened.bin_path, threaded=False).hand_over().take(key)
    assert other is not None
    both = ResidentLayers()
    both.put(key, layer)
    both.put(key, other)
    both.keep_only([key, key])
    assert {both.take(key), both.take(key), both.take(key)} == {layer, other, None}
    both.put(key, layer)
    both.put(key, other)
    both.keep_only([key])
    assert both.take(key) is layer
    with pytest.raises(AttributeError):  # closed
        other.forward(native.mat_from_array(feed(32, 16, 16)), native.empty_mat())


def test_handed_over_layers_let_go_of_the_arena_they_computed_in(model: Prepared) -> None:
    executor = Executor(some_resident(model.plan(), "conv0", "conv1", "fc"), model.opened.bin_path)
    executor.run(model.inputs)
    arena = weakref.ref(executor._arena.base)
    kept = executor.hand_over()
    gc.collect()
    assert arena() is None
    kept.close()


def test_stock_ncnn_hands_nothing_over_and_takes_nothing(model: Prepared) -> None:
    plan = model.plan()
    net = replace(plan, vehicle="net", steps=(), placements=(), arena_bytes=0, heap_bytes=0)
    files = model.opened.param_path, model.opened.bin_path
    stock = open_plan(net, *files)
    assert isinstance(stock, StockVehicle)
    layers = open_plan(some_resident(plan, "conv1"), *files, stock.hand_over())
    assert_close(layers.run(model.inputs), model.stock(), 1e-5)
    kept = layers.hand_over()
    with open_plan(net, *files, kept) as again:
        assert_close(again.run(model.inputs), model.stock(), 0)
    assert kept.take(next(key for key in resident_keys(some_resident(plan, "conv1")) if key[-1])) is None


def test_what_a_larger_budget_keeps_is_loaded_ahead_a_layer_at_a_time(model: Prepared, loaded: list[int]) -> None:
    plan, bin_path = model.plan(), model.opened.bin_path
    small, large = some_resident(plan, "conv0"), some_resident(plan, "conv0", "conv1", "fc")
    first = Executor(small, bin_path, threaded=False)
    ahead = LoadAhead(large, bin_path, resident_keys(small), 100_000_000)
    loaded.clear()
    assert ahead.load(0)
    less, more = sorted(("conv1", "fc"), key=lambda name: load_peak_bytes(large, name))
    assert set(loaded) == offsets_of(plan, more)
    assert_close(first.run(model.inputs), model.stock(), 1e-5)
    loaded.clear()
    assert not ahead.load(0)
    assert set(loaded) == offsets_of(plan, less)
    assert not ahead.load(0)
    assert ahead.seconds > 0
    kept = first.hand_over()
    kept.absorb(ahead.layers)
    ahead.close()
    loaded.clear()
    with Executor(large, bin_path, kept, threaded=False) as second:
        assert loaded == []
        assert_close(second.run(model.inputs), model.stock(), 1e-5)


def test_nothing_is_loaded_ahead_that_there_is_no_room_for(model: Prepared, loaded: list[int]) -> None:
    plan = model.plan()
    large = some_resident(plan, "conv0", "conv1", "fc")
    loaded.clear()
    for room_bytes in (-5, 0, 2_000_000):
        ahead = LoadAhead(large, model.opened.bin_path, (), room_bytes)
        assert not ahead.load(10)
        assert list(ahead.layers.keys()) == []
        ahead.close()
    assert loaded == []
    ahead = LoadAhead(large, model.opened.bin_path, (), 100_000_000)
    ahead.load(10)
    assert set(loaded) == offsets_of(plan, "conv0") | offsets_of(plan, "conv1") | offsets_of(plan, "fc")
    ahead.close()
    assert list(ahead.layers.keys()) == []


def test_what_loading_a_resident_part_takes_is_in_the_plan(model: Prepared) -> None:
    for step in model.plan().steps:
        for part in step.parts:
            stored_bytes = sum(piece.stored_bytes for piece in part.pieces)
            assert (part.load_peak_bytes >= stored_bytes > 0) == bool(part.pieces and step.resident)
    streamed = [model.choice(index, resident=False) for index in range(len(model.work.choices))]
    assert {part.load_peak_bytes for step in model.plan_of(streamed).steps for part in step.parts} == {0}


def test_a_layer_is_loaded_ahead_where_there_is_room_for_what_it_takes_at_most(model: Prepared) -> None:
    plan = some_resident(model.plan(), "fc")
    needed = SLACK_BYTES + load_peak_bytes(plan, "fc")
    for room_bytes, is_loaded in ((needed - 1, False), (needed, True)):
        ahead = LoadAhead(plan, model.opened.bin_path, (), room_bytes)
        ahead.load(10)
        assert any(ahead.layers.keys()) == is_loaded
        ahead.close()
