"""Loads read ahead in their order, through the page cache and past it: always what the file has there."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flexnn_ncnn.errors import PlanError
from flexnn_ncnn.records.plan import TRANSFORMED_OFFSET_BYTES, WeightPiece
from flexnn_ncnn.runtime.weights import direct_stream
from flexnn_ncnn.runtime.weights.direct_stream import DirectStream, largest_load_bytes
from flexnn_ncnn.runtime.weights.streams import Load, MappedStream, Stream, open_stream
from flexnn_ncnn.runtime.weights.weight_source import WeightSource
from param_tools.errors import ModelFormatError
from tests.examples import examples

PAGE = os.sysconf("SC_PAGE_SIZE")
VALUES = np.random.default_rng(0).standard_normal(1_500_000).astype(np.float32)


def fp32(begin: int, count: int) -> WeightPiece:
    return WeightPiece(4 * begin, count, "fp32")


# two arrays each, as weights and biases; one load is several layers
LOADS: tuple[Load, ...] = (
    ((fp32(0, 200_000), fp32(200_000, 100)),),
    ((fp32(200_101, 90_000), fp32(290_101, 10)), (fp32(300_000, 1),)),
    ((fp32(400_001, 350_003), fp32(750_004, 1000)),),
    ((fp32(1_400_000, 100_000), fp32(5, 60)),),
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("streams") / "w.bin"
    made.write_bytes(VALUES.tobytes())
    return made


@pytest.fixture
def source(path: Path) -> Iterator[WeightSource]:
    before = threading.active_count()
    found = WeightSource(path)
    yield found
    found.close()
    assert threading.active_count() == before
    opened = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    assert path not in [Path(os.readlink(link)) for link in opened if link.is_symlink()]


def wanted(load: Load) -> list[list[npt.NDArray[Any]]]:
    return [[VALUES[p.offset_bytes // 4 :][: p.count] for p in layer] for layer in load]


def check(found: Sequence[Sequence[npt.NDArray[Any]]], load: Load) -> None:
    for arrays, expected in zip(found, wanted(load), strict=True):
        for array, values in zip(arrays, expected, strict=True):
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array, values)


def run(stream: Stream, loads: Sequence[Load], inferences: int = 1) -> None:
    stream.read_ahead()
    for _ in range(inferences):
        for number, load in enumerate(loads):
            check(stream.fetch(number), load)
            stream.release(number)


KINDS = ["mapped", "mapped, ahead", "direct", "direct, far ahead", "through threads", "fallen back"]


@pytest.fixture(params=KINDS)
def stream(request: pytest.FixtureRequest, source: WeightSource, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stream]:
    least = largest_load_bytes(LOADS)
    made: Stream
    if request.param == "mapped":
        made = MappedStream(source, LOADS, 0)
    elif request.param == "mapped, ahead":
        os.posix_fadvise(source.file_descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        made = MappedStream(source, LOADS, 1_000_000)
    elif request.param == "direct, far ahead":
        made = DirectStream(source, LOADS, 10 * least)
    else:
        if request.param == "through threads":
            monkeypatch.setattr("flexnn_ncnn.runtime.weights.disk_reads._CALLS", {})
        if request.param == "fallen back":
            monkeypatch.setattr(direct_stream, "_O_DIRECT", 0)
        made = DirectStream(source, LOADS, least)
    yield made
    made.close()
    made.close()


def test_every_load_of_every_inference_is_what_the_file_has(stream: Stream) -> None:
    run(stream, LOADS, 7)


@pytest.mark.parametrize("stop_at", [0, 1, 3])
def test_after_an_inference_that_ended_early_the_next_is_right(stream: Stream, stop_at: int) -> None:
    run(stream, LOADS[:stop_at])
    stream.fetch(stop_at)
    stream.abort()
    run(stream, LOADS, 3)


def test_an_order_that_begins_anew_is_right_too(stream: Stream) -> None:
    """Should nobody say that an inference ended."""
    for stop_at in (2, 1, 4, 3):
        run(stream, LOADS[:stop_at])


def test_closing_while_much_is_being_read(stream: Stream) -> None:
    stream.read_ahead()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_fork_reads_by_itself(stream: Stream) -> None:
    run(stream, LOADS)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            run(stream, LOADS, 2)
            stream.close()
            status = 0
        finally:
            os._exit(status)
    run(stream, LOADS, 2)
    _, ended = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(ended) == 0


def test_arrays_stay_until_their_release(source: WeightSource) -> None:
    stream = DirectStream(source, LOADS, 10 * largest_load_bytes(LOADS))
    held = [stream.fetch(number) for number in range(len(LOADS))]
    for found, load in zip(held, LOADS, strict=True):
        check(found, load)
    stream.close()


def test_what_is_held_leaves_no_room_for_more(source: WeightSource) -> None:
    stream = DirectStream(source, LOADS, largest_load_bytes(LOADS))
    stream.fetch(0)
    stream.release(0)
    stream.fetch(1)
    assert not stream.has_room()
    with pytest.raises(PlanError, match="leave no room"):
        stream.fetch(2)
    stream.release(1)
    assert stream.has_room()
    check(stream.fetch(2), LOADS[2])
    stream.close()


def test_parts_of_two_files_make_one_load(path: Path, tmp_path: Path) -> None:
    other = np.random.default_rng(1).integers(-128, 128, 700_000, np.int8)
    (tmp_path / "t.weights").write_bytes(other.tobytes())
    image = WeightPiece(TRANSFORMED_OFFSET_BYTES + 2 * PAGE, 300_000, "int8")
    loads = ((((image, fp32(7, 100)),)), (((fp32(200_000, 90_000)),),))
    with closing(WeightSource(path, str(tmp_path / "t.weights"))) as source:
        for page_cache in ("direct", "mmap"):
            with closing(open_stream(source, loads, page_cache, 1_000_000)) as stream:
                for _ in range(3):
                    ((found, bias),) = stream.fetch(0)
                    np.testing.assert_array_equal(found, other[2 * PAGE :][:300_000])
                    np.testing.assert_array_equal(bias, VALUES[7:107])
                    assert found.ctypes.data % 64 == 0, "as the file has it"
                    stream.release(0)
                    check(stream.fetch(1), loads[1])
                    stream.release(1)
        beyond = WeightPiece(TRANSFORMED_OFFSET_BYTES + 700_000, 1, "int8")
        with pytest.raises(ModelFormatError, match=r"t\.weights: ends before the weights at 700000"):
            DirectStream(source, (((beyond,),),), PAGE)


def test_a_load_larger_than_the_memory_is_refused(source: WeightSource) -> None:
    with pytest.raises(PlanError, match=r"less than the .* of its largest load"):
        DirectStream(source, LOADS, largest_load_bytes(LOADS) - 1)


@settings(max_examples=examples(20), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_loads_in_any_memory_that_holds_them(source: WeightSource, data: st.DataObject) -> None:
    piece = st.builds(fp32, st.integers(0, 100_000), st.integers(1, 30_000))
    layer = st.lists(piece, min_size=1, max_size=3).map(tuple)
    loads = data.draw(st.lists(st.lists(layer, min_size=1, max_size=2).map(tuple), min_size=1, max_size=5))
    least = largest_load_bytes(loads)
    size_bytes = data.draw(st.integers(least, 3 * least))
    # in order, or anywhere after an abort
    order = data.draw(st.lists(st.integers(0, len(loads) - 1), max_size=8)) + list(range(len(loads)))
    with closing(DirectStream(source, loads, size_bytes)) as stream:
        stream.read_ahead()
        following = 0
        for number in order:
            if number != following:
                stream.abort()
            check(stream.fetch(number), loads[number])
            stream.release(number)
            following = (number + 1) % len(loads)


@pytest.mark.parametrize("kind", ["mapped", "direct"])
def test_a_file_cut_short_meanwhile_is_an_error_each_time_and_no_crash(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    path.write_bytes(VALUES.tobytes())
    source = WeightSource(path)
    stream = open_stream(source, LOADS, "mmap" if kind == "mapped" else kind, largest_load_bytes(LOADS))
    run(stream, LOADS)
    os.truncate(path, 4 * 420_000)
    for _ in range(2):
        check(stream.fetch(0), LOADS[0])
        stream.release(0)
        check(stream.fetch(1), LOADS[1])
        stream.release(1)
        with pytest.raises(ModelFormatError, match=r"w\.bin.*(shorter|ends before)"):
            stream.fetch(2)
        stream.abort()
    path.write_bytes(VALUES.tobytes())
    if kind == "direct":
        run(stream, LOADS, 2)
    stream.close()
    source.close()


def test_weights_beyond_the_file_are_refused_at_once(source: WeightSource) -> None:
    with pytest.raises(ModelFormatError, match="ends before the weights"):
        DirectStream(source, [((fp32(len(VALUES) - 1, 2),),)], 10 * PAGE)


def test_a_storage_error_has_a_name(source: WeightSource, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = DirectStream(source, LOADS, largest_load_bytes(LOADS))
    stream.read_ahead()
    taken = stream._reads.wait

    def failing() -> list[tuple[Any, int]]:
        return [(read, -errno.EIO) for read, _ in taken()]

    monkeypatch.setattr(stream._reads, "wait", failing)
    with pytest.raises(ModelFormatError, match="cannot be read: Input/output error"):
        stream.fetch(0)
    stream.abort()  # another queue, which works
    run(stream, LOADS)
    stream.close()


def test_a_file_replaced_before_it_is_opened_again_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    path.write_bytes(VALUES.tobytes())
    source = WeightSource(path)
    other = tmp_path / "other"
    other.write_bytes(VALUES.tobytes())
    other.replace(path)
    with pytest.raises(ModelFormatError, match="was replaced"):
        DirectStream(source, LOADS, largest_load_bytes(LOADS))
    path.unlink()
    with pytest.raises(ModelFormatError, match="cannot be read"):
        DirectStream(source, LOADS, largest_load_bytes(LOADS))
    source.close()


def test_a_file_system_without_direct_reads_is_named_and_read_all_the_same(
    source: WeightSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def without(path: Any, flags: int, *rest: Any) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return opened(path, flags, *rest)

    monkeypatch.setattr(os, "open", without)
    stream = DirectStream(source, LOADS, largest_load_bytes(LOADS))
    assert "the file system of" in stream.note
    assert "w.bin" in stream.note
    run(stream, LOADS, 2)
    stream.close()


@pytest.mark.parametrize(("room_bytes", "kind"), [(None, MappedStream), (10**9, MappedStream), (10**6, DirectStream)])
def test_where_memory_is_short_the_page_cache_is_left_alone(
    source: WeightSource, room_bytes: int | None, kind: type
) -> None:
    stream = open_stream(source, LOADS, "mmap", 0, room_bytes)
    assert type(stream) is kind
    run(stream, LOADS, 2)
    stream.close()


def test_a_direct_plan_is_read_past_the_page_cache(source: WeightSource) -> None:
    stream = open_stream(source, LOADS, "direct", 5_000_000)
    assert type(stream) is DirectStream
    assert stream.note == "" or "page cache" in stream.note
    run(stream, LOADS)
    stream.close()
