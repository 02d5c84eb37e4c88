"""The library's front door, on small networks and squeezenet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flexnn_ncnn
from flexnn_ncnn import zoo
from flexnn_ncnn.errors import BudgetError, FlexnnError, InputError, PlanError, SizeError, UsageError
from flexnn_ncnn.records.formats import read_profile
from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.runtime.native import StockNet
from param_tools.errors import ModelFormatError
from param_tools.model_io import read_param
from param_tools.param_binary import format_param_binary
from tests.integration import tiny_models
from tests.integration.quick_plans import plans_made_here

Open = Callable[..., flexnn_ncnn.Session]

BUDGET = "2.4MB"  # enough for the small networks, too little for stock ncnn


@pytest.fixture
def planning_session(tmp_path: Path) -> Open:
    """A session as users have it, whose plans come from child processes and are tried."""

    def opened(param: Path, **options: Any) -> flexnn_ncnn.Session:
        return flexnn_ncnn.open_session(param, **{"budget": BUDGET, "cache_dir": tmp_path / "cache", **options})

    return opened


@pytest.fixture
def open_session(planning_session: Open) -> Iterator[Open]:
    with plans_made_here(stock_more_bytes=5_000_000):
        yield planning_session


def stock(param: Path, inputs: dict[str, Any], *outputs: str) -> dict[str, Any]:
    net = StockNet(str(param), str(param.with_suffix(".bin")), RunOptions())
    try:
        return net.run(inputs, outputs)
    finally:
        net.close()


@pytest.mark.parametrize(("budget", "vehicle"), [("2.4MB", "layers"), ("50MB", "net")])
def test_a_session_gives_stocks_answer_again_and_again(
    budget: str, vehicle: str, tmp_path: Path, open_session: Open
) -> None:
    param = tiny_models.classifier(tmp_path)
    pictures = np.random.default_rng(1).random((3, 3, 32, 32), np.float32)
    with open_session(param, budget=budget) as session:
        assert session.input_names == ("in0",)
        for picture in pictures:
            found = session.run({"in0": picture})["out0"]
            np.testing.assert_allclose(found, stock(param, {"in0": picture}, "out0")["out0"], rtol=1e-5)
        assert session.trace.seconds > 0
        assert session.plan.vehicle == vehicle


@pytest.mark.parametrize("budget", ["2.4MB", "50MB"])
def test_a_binary_param_gives_the_same_answer(budget: str, tmp_path: Path, open_session: Open) -> None:
    param = tiny_models.classifier(tmp_path)
    binary = tmp_path / "classifier.param.bin"
    binary.write_bytes(format_param_binary(read_param(param)))
    picture = np.random.default_rng(1).random((3, 32, 32), np.float32)
    with open_session(binary, bin=param.with_suffix(".bin"), budget=budget) as session:
        (found,) = session.run({session.input_names[0]: picture}).values()
    np.testing.assert_allclose(found, stock(param, {"in0": picture}, "out0")["out0"], rtol=1e-5)


def test_results_stay_when_the_next_run_and_the_end_come(tmp_path: Path, open_session: Open) -> None:
    param = tiny_models.upscaler(tmp_path)
    first, second = np.random.default_rng(1).random((2, 3, 16, 16), np.float32)
    with open_session(param) as session:
        kept = session.run({"in0": first})["out0"]
        before = kept.copy()
        session.run({"in0": second})
    np.testing.assert_array_equal(kept, before)


@pytest.mark.parametrize("pack", [64, 63, 7])
def test_inputs_are_left_as_they_were(pack: int, tmp_path: Path, open_session: Open) -> None:
    layers = [
        tiny_models.layer("Input", "a", "", "left"),
        tiny_models.layer("Input", "b", "", "right"),
        tiny_models.layer("Split", "s", "left", "l0 l1"),
        tiny_models.layer("ReLU", "relu", "right", "r"),
        tiny_models.layer("BinaryOp", "add", "l0 r", "sum", p0=0),
        tiny_models.layer("Sigmoid", "sigmoid", "l1", "squashed"),
    ]
    param = tiny_models.write(layers, tmp_path / "shared.param")
    for shape in ((pack,), (pack, 3), (pack, 3, 5)):
        left, right = (np.random.default_rng(i).standard_normal(shape).astype(np.float32) for i in range(2))
        copies = left.copy(), right.copy()
        with open_session(param) as session:
            for _ in range(2):
                found = session.run({"left": left, "right": right})
            assert session.plan.vehicle == "layers"
        np.testing.assert_array_equal(left, copies[0])
        np.testing.assert_array_equal(right, copies[1])
        np.testing.assert_allclose(found["sum"], left + np.maximum(right, 0), rtol=1e-6)
        np.testing.assert_allclose(found["squashed"], 1 / (1 + np.exp(-left)), rtol=1e-4)


def test_other_shapes_are_planned_for_when_they_come(tmp_path: Path, open_session: Open) -> None:
    param = tiny_models.classifier(tmp_path, sized=False)
    with open_session(param) as session:
        for shape in ((3, 32, 32), (3, 20, 44), (3, 32, 32)):
            picture = np.random.default_rng(2).random(shape, np.float32)
            found = session.run({"in0": picture})["out0"]
            np.testing.assert_allclose(found, stock(param, {"in0": picture}, "out0")["out0"], rtol=1e-5)
            assert dict(session.plan.inputs)["in0"].numpy_shape == shape


def test_loading_is_measured_once_for_all_shapes(tmp_path: Path, open_session: Open) -> None:
    with open_session(tiny_models.classifier(tmp_path, sized=False)) as session:
        for size in (24, 32):
            session.prepare({"in0": np.zeros((3, size, size), np.float32)})
    first, second = (read_profile(path) for path in (tmp_path / "cache").glob("plans/*/profile.json"))
    pairs = [(a, b) for a, b in zip(first.layers, second.layers, strict=True) if a.raw_bytes]
    assert pairs
    assert all(a.kernels[0].load_seconds == b.kernels[0].load_seconds for a, b in pairs)
    assert first.layers[0].output_layouts != second.layers[0].output_layouts


def test_a_session_can_be_prepared_before_data_come(tmp_path: Path, planning_session: Open) -> None:
    said: list[str] = []
    param = tiny_models.classifier(tmp_path)
    with planning_session(param, progress=lambda what, done, of: said.append(what)) as session:
        with pytest.raises(PlanError, match="no plan yet"):
            session.plan  # noqa: B018
        plan = session.prepare({"in0": np.zeros((3, 32, 32))})
        assert plan is session.plan
        # the budget may be less than profiling needs, and then that is said, too
        assert {what.partition(",")[0] for what in said} == {"profiling layers", "timing layers", "trying the plan"}
        said.clear()
        session.run({"in0": np.ones((3, 32, 32))})
        assert said == []


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "uint8", "int64", ">f4"])
def test_real_numbers_of_any_type_become_float32(dtype: str, tmp_path: Path, open_session: Open) -> None:
    param = tiny_models.classifier(tmp_path)
    picture = np.random.default_rng(3).integers(0, 200, (3, 32, 32))
    expected = stock(param, {"in0": picture.astype(np.float32)}, "out0")["out0"]
    with open_session(param) as session:
        given = picture.astype(dtype).transpose(0, 2, 1).copy().transpose(0, 2, 1)  # not contiguous
        np.testing.assert_allclose(session.run({"in0": given})["out0"], expected, atol=1e-5)
        np.testing.assert_allclose(session.run({"in0": picture.tolist()})["out0"], expected, atol=1e-5)


def test_not_a_number_goes_in_and_comes_out(tmp_path: Path, open_session: Open) -> None:
    picture = np.full((3, 16, 16), np.nan, np.float32)
    with open_session(tiny_models.upscaler(tmp_path)) as session:
        assert np.isnan(session.run({"in0": picture})["out0"]).all()


def test_ids_are_int32_whatever_integers_they_come_as(tmp_path: Path, open_session: Open) -> None:
    param = tiny_models.lookup(tmp_path)
    expected = stock(param, {"in0": np.array([1, 49, 1, 0, 7], np.int32)}, "out0")["out0"]
    with open_session(param) as session:
        for dtype in (np.int64, np.uint8, np.int32):
            np.testing.assert_array_equal(session.run({"in0": np.array([1, 49, 1, 0, 7], dtype)})["out0"], expected)
        with pytest.raises(InputError, match="takes ids, not float32"):
            session.run({"in0": np.zeros(5, np.float32)})
        with pytest.raises(InputError, match="int32 cannot hold; ids go to 49"):
            session.run({"in0": np.full(5, 2**31)})


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "no input is given for blob 'in0'; the network reads in0"),
        ({"in1": np.zeros(3)}, "no input blob 'in1'; it reads in0"),
        ({"in0": np.zeros((4, 32, 32))}, r"layer 'conv' \(Convolution\) reads 3 channels, not 4"),
        ({"in0": np.zeros((1, 3, 32, 32))}, "leave the batch dimension out"),
        ({"in0": "cat.png"}, "which no network takes; give float32"),
        ({"in0": np.zeros((3, 32, 32), object)}, "array of object"),
        ({"in0": [[1.0], [2.0, 3.0]]}, "rows differ in length"),
        ({"in0": None}, "array of object"),
        ({"in0": 5.0}, r"has the shape \(\)"),
    ],
)
def test_inputs_a_network_cannot_take(inputs: dict[str, Any], words: str, tmp_path: Path, open_session: Open) -> None:
    with open_session(tiny_models.classifier(tmp_path)) as session:
        with pytest.raises(InputError, match=words):
            session.run(inputs)
        assert session.run({"in0": np.zeros((3, 32, 32))})["out0"].shape == (10,)


@pytest.mark.parametrize("budget", [float("nan"), 1.5e7, "nan", None, 0, -1, True, "12 parsecs"])
def test_what_is_no_budget(budget: Any, tmp_path: Path, open_session: Open) -> None:
    with pytest.raises(SizeError):
        open_session(tiny_models.classifier(tmp_path), budget=budget)


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_what_is_no_number_of_threads(threads: Any, tmp_path: Path, open_session: Open) -> None:
    with pytest.raises(UsageError, match="threads cannot compute"):
        open_session(tiny_models.classifier(tmp_path), threads=threads)


def test_a_bad_model_is_found_out_on_opening(tmp_path: Path, open_session: Open) -> None:
    with pytest.raises(ModelFormatError, match=r"missing\.param"):
        open_session(tmp_path / "missing.param")
    param = tiny_models.classifier(tmp_path)
    with pytest.raises(ModelFormatError, match=r"other\.bin"):
        open_session(param, bin=tmp_path / "other.bin")
    param.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(ModelFormatError, match=r"classifier\.bin"):
        open_session(param)


def test_a_budget_too_small_says_which_works_and_that_one_does(tmp_path: Path, planning_session: Open) -> None:
    param, inputs = tiny_models.classifier(tmp_path), {"in0": np.zeros((3, 32, 32))}
    with planning_session(param, budget=1000) as session, pytest.raises(BudgetError, match="layer '") as refused:
        session.run(inputs)
    with planning_session(param, budget=refused.value.smallest_bytes) as session:
        session.run(inputs)
        assert session.plan.predicted_peak_bytes <= refused.value.smallest_bytes


def test_a_closed_session_stays_closed(tmp_path: Path, open_session: Open) -> None:
    session = open_session(tiny_models.classifier(tmp_path))
    session.run({"in0": np.zeros((3, 32, 32))})
    session.close()
    session.close()
    with pytest.raises(UsageError, match="the session is closed"):
        session.run({"in0": np.zeros((3, 32, 32))})


def test_the_package_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="nosuch"):
        flexnn_ncnn.nosuch  # noqa: B018


@pytest.mark.network
def test_squeezenet_sees_the_cat_within_eight_megabytes(tmp_path: Path, planning_session: Open) -> None:
    try:
        zoo.build("squeezenet", tmp_path)
    except FlexnnError as error:
        if "pip could not fetch" in str(error):
            pytest.skip(str(error))
        raise
    known = zoo.entry("squeezenet")
    photo, names = zoo.photo_path(known), zoo.labels(known)
    assert photo is not None
    assert names is not None
    param, _ = zoo.model_paths("squeezenet", tmp_path)
    picture = zoo.image_input(known, photo)
    with planning_session(param, budget="8MB") as session:
        scores = session.run({"in0": picture})["out0"]
        assert session.plan.streamed_bytes > 0
    assert names[int(scores.argmax())] == "Egyptian cat"
    expected = stock(param, {"in0": picture}, "out0")["out0"]
    assert np.abs(scores - expected).max() <= 1e-3 * np.abs(expected).max()
