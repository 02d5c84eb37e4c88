"""Contestants in processes of their own: within limits, with other runtimes, and what is said where there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval import devices
from eval.cells import Cell, Effort, cells_of
from eval.cgroups import why_unavailable
from eval.contest import Entry, LimitError, Run, run_once
from eval.contest_cell import measure_contest
from eval.devices import DEVICES, check_device
from eval.limits import smallest_limit
from eval.measuring import measure
from eval.models import model_files
from eval.peers.setups import PEERS, peer_entry
from flexnn_ncnn.children import saved_arrays
from flexnn_ncnn.errors import UsageError
from flexnn_ncnn.measuring.contestants import Contestants
from flexnn_ncnn.preparing.preparation import Request
from flexnn_ncnn.records.options import RunOptions
from tests.integration import tiny_models


def needs_groups(test: Any) -> Any:
    """Marks a test of control groups."""
    missing = why_unavailable()
    return pytest.mark.root(pytest.mark.skipif(bool(missing), reason=missing or "-")(test))


MB = 1_000_000


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXNN_CACHE_DIR", str(tmp_path / "cache"))


def fully_connected(folder: Path) -> Path:
    """8.8 MB of weights, most of them in one layer."""
    layers = [
        tiny_models.layer("Input", "data", "", "in0", p0=32, p1=32, p2=3),
        tiny_models.layer("InnerProduct", "fc", "in0", "1", p0=700, p1=1, p2=700 * 3072),
        tiny_models.layer("InnerProduct", "last", "1", "out0", p0=64, p1=1, p2=64 * 700),
    ]
    return tiny_models.write(layers, folder / "model.param")


def cell(param: Path, *configs: str, device: str = "host") -> Cell:
    return Cell("peers", str(param), configs, 5 * MB, 1, 0, 1, device=device)


def stock(param: Path, folder: Path) -> Entry:
    files = model_files(str(param))
    request = Request(files.param_path, files.bin_path, 1, RunOptions())
    opens = Contestants(request, files.inputs, folder, None).of("stock").opens
    return Entry("stock", opens, (files.param_path, files.bin_path))


def test_memory_is_told_three_ways(tmp_path: Path) -> None:
    param = fully_connected(tmp_path)
    size_bytes = param.with_suffix(".bin").stat().st_size
    found = measure_contest(cell(param, "stock", "flexnn"))
    assert (found["failed"], found["missing"]) == ({}, {})
    plain, within = found["measured"]
    assert plain["peak_bytes"] > size_bytes > 5 * MB >= within["peak_bytes"]
    assert within["weights_streamed_bytes"] > 0
    assert within["difference"] < 1e-5
    if not why_unavailable():
        # transformed weights, and the file's pages
        assert plain["group_peak_bytes"] > plain["peak_bytes"] * 0.8 + size_bytes * 0.8
    else:
        assert plain["group_peak_bytes"] is None
        assert found["root"]


@needs_groups
def test_on_a_device_storage_is_slow_for_what_is_not_cached(tmp_path: Path) -> None:
    param = fully_connected(tmp_path)
    (one,) = measure_contest(cell(param, "stock", device="pi-zero2w"))["measured"]
    size_bytes = param.with_suffix(".bin").stat().st_size
    if not one["cold_read_bytes"]:
        pytest.skip("files of this folder are not on a disk")
    assert one["cold_read_bytes"] >= size_bytes > one["warm_read_bytes"]
    assert one["load_ms"] / 1e3 > 0.5 * size_bytes / 22e6  # the throttle of the system itself, not a speed of ours


@needs_groups
def test_a_limit_kills_and_says_so(tmp_path: Path) -> None:
    param = fully_connected(tmp_path)
    entry = stock(param, tmp_path)
    with saved_arrays(model_files(str(param)).inputs) as inputs:
        assert run_once(entry, inputs, device="host", threads=1, loops=1, memory_bytes=200 * MB).warm_seconds
        with pytest.raises(LimitError, match="stock was killed for want of memory"):
            run_once(entry, inputs, device="host", threads=1, loops=1, memory_bytes=2 * MB)


def test_one_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    param = tiny_models.classifier(tmp_path)
    with (
        saved_arrays(model_files(str(param)).inputs) as inputs,
        pytest.raises(LimitError, match=r"stock was ended after 0\.01 s"),
    ):
        run_once(stock(param, tmp_path), inputs, device="host", threads=1, loops=1, patience_seconds=0.01)


def test_a_crash_is_nothing_that_was_found_out(tmp_path: Path) -> None:
    param = tiny_models.classifier(tmp_path)
    param.with_suffix(".bin").write_bytes(b"short")
    found = measure(Cell("peers", str(param), ("stock",), None, 1, 0, 1))
    assert found["status"] == "failed"


@pytest.mark.parametrize("needed", [1.1, 7.0, 50.0, 99.0])
@pytest.mark.parametrize("percent", [5, 40])
def test_the_smallest_limit_is_found(needed: float, percent: int) -> None:
    tried: list[int] = []

    def attempt(limit_bytes: int) -> Run | None:
        tried.append(limit_bytes)
        return Run(warm_seconds=[0.5], warm_read_bytes=3) if limit_bytes >= needed * MB else None

    found = smallest_limit(attempt, 100 * MB, percent)
    least = max(needed, 6.25) * MB  # a sixteenth is as low as it looks
    assert found is not None
    assert least <= found["survived_bytes"] <= least * (1 + percent / 100) + 1
    assert (found["latency_ms"], found["read_bytes"]) == (500.0, 3)
    assert found["failed_bytes"] is None or found["failed_bytes"] < needed * MB
    assert found["survived_bytes"] in tried
    assert len(tried) <= 9


def test_a_limit_that_nothing_survives() -> None:
    assert smallest_limit(lambda limit_bytes: None, 100 * MB, 40) is None


def test_devices_need_control_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "why_unavailable", lambda: "no control group can be made: Permission denied")
    assert check_device("host") == "no control group can be made: Permission denied"
    for name in DEVICES.keys() - {"host"}:
        with pytest.raises(UsageError, match=f"{name} cannot be imitated.*; run it as root"):
            check_device(name)


@needs_groups
@pytest.mark.parametrize("name", DEVICES)
def test_every_device_can_be_imitated(name: str, tmp_path: Path) -> None:
    with devices.imitated(name, Path(__file__)) as group:
        assert group is not None
        assert group.memory_bytes < MB


def test_the_adaptive_demo(tmp_path: Path) -> None:
    param = fully_connected(tmp_path)
    (one,) = cells_of("adaptive", [str(param)], [6 * MB, 5 * MB], Effort(adaptive_runs=2))
    found = measure(one)
    assert found["status"] == "measured", found
    assert [phase["budget_bytes"] for phase in found["found"]["phases"]] == [6 * MB, 5 * MB]
    assert found["found"]["phases"][1]["switch"]["stopped_ms"] > 0
    assert len(found["found"]["samples"]) >= 4


def test_a_peer_that_is_not_installed_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from eval.peers import setups

    def version(name: str) -> str:
        raise setups.PackageNotFoundError(name)

    monkeypatch.setattr(setups, "version", version)
    param = tiny_models.classifier(tmp_path)
    found = measure_contest(cell(param, "stock", *PEERS))
    assert [one["config"] for one in found["measured"]] == ["stock"]
    assert found["missing"]["openvino"] == "openvino is not installed"
    assert found["missing"].keys() == PEERS.keys()


@pytest.mark.parametrize("config", PEERS)
def test_peers_answer_as_stock_ncnn(config: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra [peers] is not installed")
    pytest.importorskip(PEERS[config].package, reason="the extra [peers] is not installed")
    found = measure_contest(cell(tiny_models.classifier(tmp_path), "stock", config))
    assert found["failed"] == {}
    _, one = found["measured"]
    assert one["difference"] < 1e-5
    assert one["peak_bytes"] > 0


def test_layers_that_have_no_onnx_form_are_said_so(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra [peers] is not installed")
    pytest.importorskip("onnxruntime", reason="the extra [peers] is not installed")
    param = tiny_models.lookup(tmp_path)
    files = model_files(str(param))
    assert "are not written as ONNX here" in peer_entry("ort", "lookup", files, 1).missing


@pytest.mark.parametrize(
    "layers",
    [
        # every kind of convolution, padding and pooling that the zoo has, and a few more
        [
            ("Convolution", "in0", "a", {"p0": 8, "p1": 3, "p3": 2, "p4": 1, "p5": 1, "p6": 216, "p9": 1}),
            ("ConvolutionDepthWise", "a", "b", {"p0": 8, "p1": 3, "p4": 1, "p6": 72, "p7": 8, "p9": 3, "p10": (0, 6)}),
            ("Pooling", "b", "c", {"p1": 3, "p2": 2, "p5": 0}),
            ("Convolution", "c", "out0", {"p0": 4, "p1": 1, "p5": 1, "p6": 32, "p9": 2, "p10": (0.1,)}),
        ],
        [
            ("Split", "in0", "x y", {}),
            ("Pooling", "x", "p", {"p1": 3, "p2": 1, "p3": 1, "p5": 1}),
            ("ReLU", "y", "r", {}),
            ("BinaryOp", "p r", "s", {"p0": 2}),
            ("Interp", "s", "t", {"p0": 1, "p1": 2.0, "p2": 2.0}),
            ("Pooling", "t", "u", {"p0": 1, "p4": 1}),
            ("Softmax", "u", "out0", {}),
        ],
        [
            ("Split", "in0", "x y", {}),
            ("Eltwise", "x y", "s", {"p0": 1, "p1": (0.25, 2.0)}),
            ("Split", "s", "v w", {}),
            ("Concat", "v w", "out0", {}),
        ],
        [
            ("Convolution", "in0", "a", {"p0": 16, "p1": 5, "p3": 5, "p5": 1, "p6": 1200}),
            ("Reshape", "a", "b", {"p0": 9, "p1": 16}),
            ("Permute", "b", "c", {"p0": 1}),
            ("MemoryData", "", "class", {"p0": 16, "p1": 1}),
            ("Concat", "class c", "d", {}),
            ("LayerNorm", "d", "e", {"p0": 16, "p1": 1e-6}),
            ("MultiHeadAttention", "e", "f", {"p0": 16, "p1": 2, "p2": 256, "p3": 16, "p4": 16}),
            ("Gemm", "f", "g", {"p10": 4, "p2": 0, "p3": 1, "p4": 0, "p5": 1, "p6": 1, "p7": 10, "p8": 32, "p9": 16}),
            ("GELU", "g", "h", {}),
            ("Crop", "h", "i", {"p9": (0,), "p10": (1,), "p11": (0,)}),
            ("Squeeze", "i", "j", {"p3": (0,)}),
            ("InnerProduct", "j", "out0", {"p0": 5, "p1": 1, "p2": 160}),
        ],
    ],
)
def test_graphs_compute_what_ncnn_does(layers: list[tuple[str, str, str, dict[str, Any]]], tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra [peers] is not installed")
    pytest.importorskip("onnxruntime", reason="the extra [peers] is not installed")
    made = [tiny_models.layer("Input", "data", "", "in0", p0=17, p1=19, p2=3)]
    made += [
        tiny_models.layer(kind, f"l{i}", ins, outs, **params) for i, (kind, ins, outs, params) in enumerate(layers)
    ]
    param = tiny_models.write(made, tmp_path / "graph.param")
    _, one = measure_contest(cell(param, "stock", "ort"))["measured"]
    assert np.isfinite(one["difference"])
    assert one["difference"] < 1e-5
