"""The real aarch64 ncnn: answers, budgets and slices on the CPU that this runs on.

`tests/aarch64/test_emulated.py` runs this on emulated boards, where an emulator's memory counts along: what a budget is
about is told by the growth of a later session, when the code is translated and the emulated heap has all its pages.
"""

from __future__ import annotations

import ctypes
import gc
import json
import mmap
import os
import platform
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from flexnn_ncnn import zoo
from flexnn_ncnn.bundles import open_bundle
from flexnn_ncnn.bundles.adoption import adopt_plan, bundle_request
from flexnn_ncnn.cli.main import main
from flexnn_ncnn.preparing.preparation import PlanCache, Request, prepare
from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.runtime import native
from flexnn_ncnn.runtime.memory import heap, process_memory
from flexnn_ncnn.runtime.vehicles import open_plan
from flexnn_ncnn.zoo.registry import entry
from param_tools.convert import convert_weights
from param_tools.encoding import Encoding
from param_tools.model_io import open_model
from param_tools.slicing.policy import WeightLimits
from param_tools.slicing.slicer import slice_model
from tests.integration.tiny_models import classifier

SESSIONS = 4
EMULATED = "FLEXNN_ARM_CPU" in os.environ
Arrays = dict[str, npt.NDArray[np.float32]]

pytestmark = [
    pytest.mark.arm,
    pytest.mark.skipif(platform.machine() not in ("aarch64", "arm64"), reason="about 64-bit Arm CPUs"),
]


def stock(param: Path, weights: Path, options: RunOptions, inputs: Arrays) -> Arrays:
    net = native.StockNet(str(param), str(weights), options)
    found = net.run(inputs, ("out0",))
    net.close()
    return found


def assert_same(ours: Arrays, theirs: Arrays, tolerance: float = 1e-4) -> None:
    for blob, expected in theirs.items():
        assert np.abs(ours[blob] - expected).max() <= tolerance * np.abs(expected).max()
        assert ours[blob].argmax() == expected.argmax()


def growth_of_a_later_session(request: Request, inputs: Arrays, folder: Path) -> tuple[int, Arrays]:
    """Growth of the resident set's peak over a session and an inference like others before it."""
    plan, _ = prepare(request, inputs, folder=folder)
    grown = 0
    outputs: Arrays = {}
    for _ in range(SESSIONS):
        outputs = {}
        gc.collect()
        heap.trim()
        idle_bytes = process_memory.resident_bytes()
        process_memory.reset_peak()
        with open_plan(plan, request.param_path, request.bin_path) as vehicle:
            outputs = vehicle.run(inputs)
        grown = process_memory.peak_bytes() - idle_bytes
    return grown, outputs


def assert_kept(request: Request, inputs: Arrays, folder: Path) -> None:
    grown_bytes, outputs = growth_of_a_later_session(request, inputs, folder)
    assert_same(outputs, stock(request.param_path, request.bin_path, request.options, inputs))
    assert grown_bytes <= request.budget_bytes
    assert request.bin_path.stat().st_size > request.budget_bytes / 2  # or it would prove nothing


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """Where the zoo's models are; for an emulated board, which would take long to build them, others have done it."""
    if EMULATED:
        return None
    folder = tmp_path_factory.mktemp("models")
    for name in ("mobilenetv2", "squeezenet11"):
        zoo.build(name, folder)
    return folder


def test_mobilenet_keeps_12_mb_with_stocks_answer(models: Path | None, tmp_path: Path) -> None:
    request = Request(*zoo.model_paths("mobilenetv2", models), 12_000_000, RunOptions())
    assert_kept(request, zoo.sample_input(entry("mobilenetv2")), tmp_path)


@pytest.mark.skipif(not EMULATED, reason="tests/aarch64/test_emulated.py makes the bundle, on an x86-64")
def test_a_bundle_of_another_machine_is_measured_again_and_keeps_8_mb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEXNN_CACHE_DIR", str(tmp_path))
    bundle = open_bundle(os.environ["FLEXNN_ARM_BUNDLE"])
    inputs = zoo.sample_input(entry(bundle.manifest.zoo))
    request = bundle_request(bundle)
    assert request.budget_bytes == 8_000_000
    assert "made on x86_64" in adopt_plan(bundle, request, inputs)
    assert_kept(request, inputs, tmp_path)
    assert adopt_plan(bundle, request, inputs) == ""
    shutil.copy(PlanCache.of(request, inputs, tmp_path).profile_path, os.environ["FLEXNN_ARM_PROFILE"])


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, Path, Arrays]:
    param = classifier(tmp_path)
    draw = np.random.default_rng(3)
    return param, param.with_suffix(".bin"), {"in0": draw.standard_normal((3, 32, 32)).astype(np.float32)}


@pytest.mark.parametrize("options", [RunOptions(fp16=True), RunOptions(bf16=True), RunOptions(packing=False)])
def test_half_precision_and_other_options_give_stocks_answer(
    small: tuple[Path, Path, Arrays], tmp_path: Path, options: RunOptions
) -> None:
    param, weights, inputs = small
    plan, _ = prepare(Request(param, weights, 3_500_000, options), inputs, folder=tmp_path)
    with open_plan(plan, param, weights) as vehicle:
        assert_same(vehicle.run(inputs), stock(param, weights, options, inputs), 1e-3)


def test_half_precision_is_used_and_close(small: tuple[Path, Path, Arrays]) -> None:
    param, weights, inputs = small
    exact = stock(param, weights, RunOptions(), inputs)["out0"]
    half = stock(param, weights, RunOptions(fp16=True), inputs)["out0"]
    difference = np.abs(exact - half).max()
    assert native.has_fp16_arithmetic() == (os.environ.get("FLEXNN_ARM_CPU") == "cortex-a76")
    assert 0 < difference < 1e-3  # at least some weights are stored in half precision, on either CPU


def test_weights_stored_as_fp16_give_stocks_answer(small: tuple[Path, Path, Arrays], tmp_path: Path) -> None:
    param, weights, inputs = small
    target = tmp_path / "half.param"
    with open_model(param, weights) as model:
        convert_weights(model, target, Encoding.FP16)
    half = target.with_suffix(".bin")
    assert half.stat().st_size < 0.6 * weights.stat().st_size
    plan, _ = prepare(Request(target, half, 3_500_000, RunOptions()), inputs, folder=tmp_path)
    with open_plan(plan, target, half) as vehicle:
        assert_same(vehicle.run(inputs), stock(target, half, RunOptions(), inputs))


def test_a_sliced_model_gives_the_whole_ones_answer(models: Path | None, tmp_path: Path) -> None:
    param, weights = zoo.model_paths("squeezenet11", models)
    inputs = zoo.sample_input(entry("squeezenet11"))
    target = tmp_path / "sliced.param"
    with open_model(param, weights) as model:
        done = slice_model(model, target, WeightLimits(200_000, 200_000, None), exact_only=False, shapes={})
    assert done.layers
    assert_same(
        stock(target, target.with_suffix(".bin"), RunOptions(), inputs), stock(param, weights, RunOptions(), inputs)
    )


def test_the_doctor_knows_the_board(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "aarch64" in found["system"]
    assert found["page_bytes"] == mmap.PAGESIZE == int(os.environ.get("FLEXNN_ARM_PAGE", mmap.PAGESIZE))
    assert found["ncnn"]["lanes"] == 4
    assert found["is_emulated"] == ("FLEXNN_ARM_CPU" in os.environ)
    works = {part["name"]: part["works"] for part in found["parts"]}
    assert works["models within a budget"]
    assert works["several threads"]
    assert works["freed memory used again"] == hasattr(ctypes.CDLL(None), "mallopt")
