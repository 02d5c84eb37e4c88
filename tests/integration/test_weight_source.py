"""Weights from a .bin: mapped or read, widened, and never from beyond the file."""

from __future__ import annotations

import mmap
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexnn_ncnn.records.layout import OVERREAD_BYTES
from flexnn_ncnn.records.plan import WeightPiece
from flexnn_ncnn.runtime.weights import weight_source
from flexnn_ncnn.runtime.weights.weight_source import WeightSource
from param_tools.errors import ModelFormatError
from tests.examples import examples

MAPPED = weight_source._MAP_FROM_BYTES
LARGE = 3 * MAPPED


def file_of(path: Path, data: bytes) -> WeightSource:
    path.write_bytes(data)
    return WeightSource(path)


def backing(array: npt.NDArray[Any]) -> object:
    """What an array's memory belongs to in the end."""
    owner: Any = array
    while isinstance(owner, np.ndarray) and owner.base is not None:
        owner = owner.base
    return owner.obj if isinstance(owner, memoryview) else owner


def is_mapped(array: npt.NDArray[Any]) -> bool:
    return isinstance(backing(array), mmap.mmap)


VALUES = np.random.default_rng(0).standard_normal(LARGE // 4 + 100).astype(np.float32)


@pytest.mark.parametrize("count", [1, 100, MAPPED // 4 - 1, MAPPED // 4, LARGE // 4])
@pytest.mark.parametrize("skipped", [0, 1, 13])
def test_floats_come_as_they_are(count: int, skipped: int, tmp_path: Path) -> None:
    source = file_of(tmp_path / "w.bin", VALUES.tobytes())
    (found,) = source.load([WeightPiece(4 * skipped, count, "fp32")])
    np.testing.assert_array_equal(found, VALUES[skipped : skipped + count])
    assert is_mapped(found) == (4 * count >= MAPPED)
    source.close()


def test_arrays_stay_when_the_source_is_closed(tmp_path: Path) -> None:
    source = file_of(tmp_path / "w.bin", VALUES.tobytes())
    small, large = source.load([WeightPiece(0, 10, "fp32"), WeightPiece(0, LARGE // 4, "fp32")])
    source.close()
    np.testing.assert_array_equal(small, VALUES[:10])
    np.testing.assert_array_equal(large, VALUES[: LARGE // 4])


@pytest.mark.parametrize("count", [100, LARGE // 2])
def test_half_precision_is_widened(count: int, tmp_path: Path) -> None:
    halves = VALUES[:count].astype(np.float16)
    source = file_of(tmp_path / "w.bin", bytes(2) + halves.tobytes() + bytes(200))
    (found,) = source.load([WeightPiece(2, len(halves), "fp16")])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, halves.astype(np.float32))


@pytest.mark.parametrize("count", [100, LARGE // 4])
def test_bfloat16_is_widened(count: int, tmp_path: Path) -> None:
    bits = (VALUES[:count].view(np.uint32) >> 16).astype(np.uint16)
    source = file_of(tmp_path / "w.bin", bits.tobytes())
    (found,) = source.load([WeightPiece(0, count, "bf16")])
    np.testing.assert_array_equal(found, (bits.astype(np.uint32) << 16).view(np.float32))
    np.testing.assert_allclose(found, VALUES[:count], rtol=0.01)


def test_int8_stays_int8(tmp_path: Path) -> None:
    values = np.arange(-128, 128, dtype=np.int8)
    (found,) = file_of(tmp_path / "w.bin", b"tag!" + values.tobytes()).load([WeightPiece(4, 256, "int8")])
    assert found.dtype == np.int8
    np.testing.assert_array_equal(found, values)


def test_a_table_is_looked_up(tmp_path: Path) -> None:
    indices = np.random.default_rng(0).integers(0, 256, 1000).astype(np.uint8)
    data = b"tag!" + VALUES[:256].tobytes() + indices.tobytes()
    (found,) = file_of(tmp_path / "w.bin", data).load([WeightPiece(4 + 1024, 1000, "table", 4)])
    np.testing.assert_array_equal(found, VALUES[:256][indices])


@pytest.mark.parametrize("encoding", ["fp32", "fp16", "bf16", "int8", "table"])
def test_every_kind_can_be_read_past_its_end(encoding: str, tmp_path: Path) -> None:
    """ncnn's kernels read up to 64 bytes past an array: mapped ones may end a file only where its last page goes on."""
    page = mmap.PAGESIZE
    for tail in (0, 16, OVERREAD_BYTES, page - 16):
        data = np.zeros(LARGE // page * page + tail, np.uint8)
        source = file_of(tmp_path / "w.bin", data.tobytes())
        lane = WeightPiece(0, 1, encoding).stored_bytes
        piece = WeightPiece(tail % lane, (len(data) - tail % lane) // lane, encoding, 0 if encoding == "table" else -1)
        stored = source.stored(piece.offset_bytes, piece.stored_bytes)
        room = page - len(data) % page if len(data) % page else 0
        assert is_mapped(stored) == (room >= OVERREAD_BYTES)
        owner = backing(stored)
        if isinstance(owner, np.ndarray):
            assert owner.nbytes >= stored.nbytes + OVERREAD_BYTES
        source.close()


@settings(max_examples=examples(60), deadline=None)
@given(data=st.data())
def test_any_piece_is_what_lies_there(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.bin"
    raw = np.random.default_rng(1).integers(0, 256, 2 * MAPPED, np.uint8)
    if not path.exists():
        path.write_bytes(raw.tobytes())
    offset = data.draw(st.integers(0, raw.size))
    size = data.draw(st.integers(0, raw.size - offset))
    source = WeightSource(path)
    np.testing.assert_array_equal(source.stored(offset, size), raw[offset : offset + size])
    source.close()


@pytest.mark.parametrize(
    "piece",
    [
        WeightPiece(0, 26, "fp32"),
        WeightPiece(100, 1, "fp32"),
        WeightPiece(-4, 1, "fp32"),
        WeightPiece(2**62, 1, "fp32"),
        WeightPiece(0, 2**61, "fp32"),
        WeightPiece(0, 1, "table", 0),
        WeightPiece(0, 1, "table", -4),
    ],
)
def test_nothing_outside_the_file_is_read(piece: WeightPiece, tmp_path: Path) -> None:
    source = file_of(tmp_path / "w.bin", bytes(100))
    with pytest.raises(ModelFormatError, match=r"w\.bin: ends before the weights at"):
        source.load([piece])


@pytest.mark.parametrize("count", [100, LARGE // 4])
def test_a_file_that_became_shorter_is_an_error(count: int, tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    source = file_of(path, VALUES.tobytes())
    os.truncate(path, 100)
    with pytest.raises(ModelFormatError, match="shorter"):
        source.load([WeightPiece(0, count, "fp32")])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match=r"none\.bin: cannot be read"):
        WeightSource(tmp_path / "none.bin")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="cannot be read"):
        WeightSource(tmp_path)


def test_an_empty_file_has_no_weights(tmp_path: Path) -> None:
    source = file_of(tmp_path / "w.bin", b"")
    assert source.load([]) == []
    with pytest.raises(ModelFormatError, match="ends before"):
        source.load([WeightPiece(0, 1, "fp32")])


@pytest.mark.parametrize("encoding", ["fp32", "fp16", "int8"])
def test_rows_of_a_matrix(encoding: str, tmp_path: Path) -> None:
    matrix = np.arange(40).reshape(10, 4)
    dtype = {"fp32": np.float32, "fp16": np.float16, "int8": np.int8}[encoding]
    source = file_of(tmp_path / "w.bin", b"tag!" + matrix.astype(dtype).tobytes())
    found = source.rows(WeightPiece(4, 40, encoding), 10, np.array([9, 0, 3]))
    np.testing.assert_array_equal(found.reshape(3, 4), matrix[[9, 0, 3]])
    assert source.rows(WeightPiece(4, 40, encoding), 10, np.array([], int)).size == 0


@pytest.mark.parametrize("count", [10, LARGE // 4])
def test_past_the_page_cache_everything_is_in_memory_of_its_own(count: int, tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    path.write_bytes(VALUES.tobytes())
    source = WeightSource(path, page_cache="direct")
    (found,) = source.load([WeightPiece(4, count, "fp32")])
    path.write_bytes(bytes(VALUES.nbytes))
    np.testing.assert_array_equal(found, VALUES[1 : count + 1])
    assert str(path) not in Path("/proc/self/maps").read_text()
    source.close()


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the system does not tell what was read")
def test_a_file_in_large_pages_is_not_read_through_again(tmp_path: Path) -> None:
    def read_bytes() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    size = 256 * 2**20
    path = tmp_path / "weights.bin"
    path.touch()
    os.truncate(path, size)
    with closing(WeightSource(path)) as source:
        source.read_through()
        before = read_bytes()
        source.read_through()
        again = read_bytes() - before
    if again >= size:
        pytest.skip("the system has no large pages of files")
    assert again < size // 100
