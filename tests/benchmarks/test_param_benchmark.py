"""How long reading takes; run with ``pytest tests/benchmarks --benchmark-only``. Times are reported, never asserted."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from param_tools.model_io import open_model
from param_tools.param_text import format_param, parse_param
from param_tools.schema import array_specs
from param_tools.shapes import BlobShape, infer_shapes
from tests.rrdb import rrdb_model

LAYERS = 100_000


@pytest.fixture(scope="module")
def rrdb_text() -> bytes:
    return format_param(rrdb_model()).encode()


@pytest.fixture(scope="module")
def long_text() -> bytes:
    lines = [
        f"Convolution              conv_{i:<19} 1 1 {i} {i + 1} 0=64 1=3 4=1 5=1 6=36864 9=2 -23310=1,2.000000e-01"
        for i in range(LAYERS - 1)
    ]
    return "\n".join(("7767517", f"{LAYERS} {LAYERS}", "Input in 0 1 0", *lines, "")).encode()


def test_parse_999_layers(benchmark: BenchmarkFixture, rrdb_text: bytes) -> None:
    assert len(benchmark(parse_param, rrdb_text).layers) == 999


def test_parse_100000_layers(benchmark: BenchmarkFixture, long_text: bytes) -> None:
    assert len(benchmark.pedantic(parse_param, (long_text,), rounds=3).layers) == LAYERS


def test_format_999_layers(benchmark: BenchmarkFixture, rrdb_text: bytes) -> None:
    assert benchmark(format_param, parse_param(rrdb_text)).encode() == rrdb_text


def test_infer_999_layers(benchmark: BenchmarkFixture, rrdb_text: bytes) -> None:
    model = parse_param(rrdb_text)
    assert not benchmark(infer_shapes, model, {"0": BlobShape(3, 64, 64, 1, 3)}).reasons


def test_open_600_megabytes(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "models" / "gpt2_124m.param"
    model = parse_param(source.read_bytes())
    (tmp_path / "m.param").write_bytes(source.read_bytes())
    with open(tmp_path / "m.bin", "wb") as file:  # all zeros: every tag says fp32, and no block is taken on disk
        file.truncate(sum(4 * spec.tagged + 4 * spec.count for layer in model.layers for spec in array_specs(layer)))
    with benchmark(open_model, tmp_path / "m.param") as opened:
        assert opened.weights.size_bytes == 649_216_392
