"""Reads under way while nobody waits: by the kernel and by threads, past the page cache and through it."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from flexnn_ncnn.runtime.memory.pages import anonymous_pages
from flexnn_ncnn.runtime.weights import disk_reads
from flexnn_ncnn.runtime.weights.disk_reads import KernelReads, Read, Reads, ThreadReads, open_reads, read_now

PAGE = os.sysconf("SC_PAGE_SIZE")
PAGES = 300
DATA = np.random.default_rng(0).integers(0, 256, PAGES * PAGE, np.uint8)

Kind = Callable[[], Reads]


def works(kind: Kind) -> bool:
    try:
        kind().close()
    except OSError:
        return False
    return True


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "w.bin"
    path.write_bytes(DATA.tobytes() + b"tail")
    try:
        found = os.open(path, os.O_RDONLY | os.O_DIRECT)
        if read_now(Read(found, 0, anonymous_pages(PAGE), 0)) < 0:
            raise OSError(errno.EINVAL, "no direct reads")
    except OSError:
        pytest.skip("the file system of temporary files reads through the page cache only")
    yield found
    os.close(found)


@pytest.fixture(params=[KernelReads, ThreadReads])
def reads(request: pytest.FixtureRequest) -> Iterator[Reads]:
    if not works(request.param):
        pytest.skip("no such reads here")
    made = request.param()
    yield made
    made.close()


def all_of(reads: Reads, count: int) -> dict[int, int]:
    ended: dict[int, int] = {}
    while len(ended) < count:
        ended.update((read.tag, result) for read, result in reads.wait())
    return ended


def test_each_read_gets_its_bytes(reads: Reads, descriptor: int) -> None:
    memory = anonymous_pages(PAGES * PAGE)
    order = np.random.default_rng(1).permutation(PAGES)
    # far more than the kernel's queue has room for
    reads.submit(Read(descriptor, int(i) * PAGE, memory[i * PAGE : (i + 1) * PAGE], int(i)) for i in order)
    assert set(all_of(reads, PAGES).values()) == {PAGE}
    np.testing.assert_array_equal(memory, DATA)


def test_a_read_beyond_the_end_is_short(reads: Reads, descriptor: int) -> None:
    memory = anonymous_pages(3 * PAGE)
    reads.submit([Read(descriptor, (PAGES - 1) * PAGE, memory, 7)])
    assert all_of(reads, 1) == {7: PAGE + len(b"tail")}
    np.testing.assert_array_equal(memory[:PAGE], DATA[-PAGE:])
    assert bytes(memory[PAGE : PAGE + 4]) == b"tail"


def test_a_read_that_fails_says_why_and_others_go_on(reads: Reads, descriptor: int) -> None:
    memory = anonymous_pages(2 * PAGE)
    reads.submit([Read(descriptor, 1, memory[:PAGE], 0), Read(descriptor, 0, memory[PAGE:], 1)])  # not at a page
    assert all_of(reads, 2) == {0: -errno.EINVAL, 1: PAGE}


@pytest.mark.parametrize("kind", [KernelReads, ThreadReads])
def test_a_file_that_is_not_open_is_an_error_of_its_reads(kind: Kind, descriptor: int) -> None:
    other = os.dup(descriptor)
    os.close(other)
    if not works(kind):
        pytest.skip("no such reads here")
    reads = kind()
    reads.submit([Read(other, 0, anonymous_pages(PAGE), tag) for tag in range(3)])
    assert all_of(reads, 3) == dict.fromkeys(range(3), -errno.EBADF)
    reads.close()


def test_closing_waits_for_what_is_under_way(reads: Reads, descriptor: int) -> None:
    before = threading.active_count()
    memory = anonymous_pages(PAGES * PAGE)
    reads.submit([Read(descriptor, 0, memory, 0)])
    reads.close()
    held = memory.copy()
    memory[:] = 0
    assert not memory.any(), "nobody writes to it any more"
    assert not held.any() or (held == DATA).all()
    reads.close()
    assert threading.active_count() <= before


def test_a_file_through_the_page_cache_is_read_by_threads() -> None:
    reads = open_reads(direct=False)
    assert isinstance(reads, ThreadReads)
    reads.close()


def test_threads_read_where_the_kernel_will_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_reads, "_CALLS", {})
    reads = open_reads(direct=True)
    assert isinstance(reads, ThreadReads)
    reads.close()


def test_a_queue_is_given_back() -> None:
    """The kernel has a few tens of thousands for all processes."""
    if not works(KernelReads):
        pytest.skip("no such reads here")
    before = int(Path("/proc/sys/fs/aio-nr").read_text())
    for _ in range(3):
        KernelReads().close()
        del_only = KernelReads()
        del del_only
    assert int(Path("/proc/sys/fs/aio-nr").read_text()) <= before + 2 * 64


def test_read_now_reads_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "small"
    path.write_bytes(b"12345")
    target: npt.NDArray[np.uint8] = np.zeros(9, np.uint8)
    with path.open("rb") as file:
        assert read_now(Read(file.fileno(), 1, target, 0)) == 4
    assert bytes(target[:4]) == b"2345"
    assert read_now(Read(-1, 0, target, 0)) == -errno.EBADF
