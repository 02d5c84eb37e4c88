"""The C library's heap, where stock ncnn puts transformed weights and workspace.

Stock ncnn takes that memory from malloc. Handing every freed block back to the system makes each load fault its
pages in again, which doubles the time of a streamed inference; keeping freed memory for the next layer avoids it.
glibc has the switches for all of it, Android's bionic for some; elsewhere these functions do nothing and the budget
holds all the same, slower.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

__all__ = [
    "LARGEST_HEAP_BYTES",
    "PAGE_BYTES",
    "Reserve",
    "allocator_name",
    "join_tiny_blocks",
    "keep_freed_memory",
    "let_threads_have_heaps",
    "mapped_alone",
    "own_heap",
    "plugged",
    "return_freed_memory",
    "shrinking",
    "trim",
]

# malloc.h of glibc
_M_MXFAST, _M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = 1, -1, -2, -3, -4, -8
# malloc.h of bionic
_M_DECAY_TIME, _M_PURGE = -100, -101
_NEVER = 2**31 - 1
_SMALL_HOLE_BYTES = 256 * 1024
_PIN_BYTES = 128 * 1024  # larger than any free memory left after plugging, so it comes from the heap's end
_SPARE_BYTES, _MARGIN_BYTES = 1024 * 1024, 64 * 1024
# glibc's per-thread cache: up to 7 blocks of each size; aligning splits off blocks of these
_CACHED_PER_SIZE, _LARGEST_CACHED_BYTES = 7, 1032
_SPLIT_OFF_SIZES = tuple(range(24, 136, 16))
_LARGEST_PLUG_BYTES, _SMALLEST_PLUG_BYTES = 64 * 1024 * 1024, 64 * 1024
_MOST_MAPPINGS = 65536  # glibc's own limit
_MANY_HEAPS = 8
_ALONE_FROM_BYTES, PAGE_BYTES = 64 * 1024, 4096
# malloc.c and arena.c of glibc, where words have 8 bytes: of a heap that is not the first, which begins at a multiple
_WORD_BYTES, _PREVIOUS_IN_USE, _NON_MAIN_ARENA, _FLAGS = ctypes.sizeof(ctypes.c_size_t), 1, 4, 7
LARGEST_HEAP_BYTES = 64 * 1024 * 1024


def _open_libc() -> ctypes.PyDLL | None:
    try:
        return ctypes.PyDLL(None)  # calls keep the GIL: they are shorter than letting go of it
    except (OSError, TypeError):
        return None


def _glibc(library: ctypes.PyDLL | None) -> ctypes.PyDLL | None:
    if not all(hasattr(library, name) for name in ("gnu_get_libc_version", "mallopt", "malloc_trim", "sbrk")):
        return None
    assert library is not None
    library.malloc.restype, library.malloc.argtypes = ctypes.c_size_t, [ctypes.c_size_t]
    library.free.restype, library.free.argtypes = None, [ctypes.c_size_t]
    library.sbrk.restype, library.sbrk.argtypes = ctypes.c_size_t, [ctypes.c_ssize_t]
    return library


def _bionic(library: ctypes.PyDLL | None) -> ctypes.PyDLL | None:
    """Android's C library where it has mallopt, which came with Android 8."""
    return library if all(hasattr(library, name) for name in ("mallopt", "__system_property_get")) else None


_OPENED = _open_libc()
_LIBC = _glibc(_OPENED)
_BIONIC = _bionic(_OPENED)
_keeps = False
_most_heaps = 1  # one for all threads: what one frees, another reuses


def allocator_name() -> str:
    """Whose heap can be told to keep what is freed: "glibc", "bionic", or "" for none."""
    return "glibc" if _LIBC is not None else "bionic" if _BIONIC is not None else ""


def keep_freed_memory() -> None:
    """Take all memory from one growing heap and keep what is freed for the next load."""
    global _keeps
    _keeps = True
    if _BIONIC is not None:
        _BIONIC.mallopt(_M_DECAY_TIME, 1)
    if _LIBC is not None:
        _LIBC.mallopt(_M_MMAP_MAX, 0)
        _LIBC.mallopt(_M_TRIM_THRESHOLD, _NEVER)
        _LIBC.mallopt(_M_TOP_PAD, 0)
        _LIBC.mallopt(_M_MXFAST, 0)  # what is freed joins its neighbours at once
        _LIBC.mallopt(_M_ARENA_MAX, _most_heaps)


class Reserve:
    """One hole of `size_bytes` in the heap for the layer that runs, beside a small one for small blocks.

    Every layer takes its memory from the hole's begin and leaves the hole whole, so the heap grows to what the
    largest layer needs. Left alone, glibc's heap grows to the sum of what ever larger layers need: it splits off
    tiny blocks when it aligns large ones, caches them per thread without joining them to their neighbours, and the
    next larger layer does not fit between them. All other free memory of the heap is plugged, which costs address
    space but no memory: its pages were given back before.

    Args:
        size_bytes: 0 leaves the heap as it is.
        is_fresh: whether the heap is one that the calling thread has for itself, with nothing in it to be plugged.
    """

    def __init__(self, size_bytes: int, *, is_fresh: bool = False) -> None:
        self._is_fresh = is_fresh
        self._is_wanted = _LIBC is not None and size_bytes > 0
        # Address space to spare: a block that does not fit goes elsewhere, whole. Pages not used cost nothing.
        self._size_bytes = size_bytes + size_bytes // 4 + _SPARE_BYTES
        self._blocks: list[int] = []
        self._begin = self._end = 0
        if self._is_wanted:
            self._build()

    def ensure_whole(self) -> None:
        """Mend the hole if small blocks stayed in it; a microsecond where none did."""
        if not self._is_wanted or self._is_whole():
            return
        join_tiny_blocks(_tiny_sizes(self._begin, self._end))
        if not self._is_whole():
            self._build()

    def close(self) -> None:
        """Let the heap be as it was."""
        with shrinking() if self._is_fresh else nullcontext():
            for block in self._blocks:
                _free(block)
            self._blocks = []

    def _is_whole(self) -> bool:
        block = _malloc(self._size_bytes)
        _free(block)
        return self._begin <= block < self._end

    def _build(self) -> None:
        is_first = not self._blocks
        self.close()  # the memory around an earlier hole, which can be used again
        if not (is_first and self._is_fresh):
            trim()
        if not self._is_fresh:
            self._plug()
        holes = []
        for size in (_SMALL_HOLE_BYTES, self._size_bytes + _MARGIN_BYTES):
            holes.append(_malloc(size))
            self._blocks.append(_malloc(_PIN_BYTES))  # keeps the hole apart from what follows
        self._begin, self._end = holes[1], self._blocks[-1]
        for hole in holes:
            _free(hole)

    def _plug(self) -> None:
        assert _LIBC is not None
        size = _LARGEST_PLUG_BYTES
        while size >= _SMALLEST_PLUG_BYTES:
            end = _LIBC.sbrk(0)
            block = _malloc(size)
            if block + size <= end:
                self._blocks.append(block)  # it came from free memory within the heap
                continue
            _free(block)
            trim()
            size //= 2


def let_threads_have_heaps() -> None:
    """From now on threads that begin to allocate have a heap of their own, up to some number of them.

    It comes too late where another thread began to while there was one heap for all.
    """
    global _most_heaps
    _most_heaps = _MANY_HEAPS
    if _LIBC is not None:
        _LIBC.mallopt(_M_ARENA_MAX, _most_heaps)


def own_heap() -> int:
    """Which of the C library's heaps the calling thread allocates from; 0 for the process's first, or unknown."""
    if _LIBC is None or _WORD_BYTES < 8:
        return 0
    block = _malloc(_LARGEST_CACHED_BYTES + 1)
    # in the size before a block
    is_first = not ctypes.c_size_t.from_address(block - _WORD_BYTES).value & _NON_MAIN_ARENA
    _free(block)
    return 0 if is_first else block // LARGEST_HEAP_BYTES


def join_tiny_blocks(sizes: Sequence[int] = _SPLIT_OFF_SIZES) -> None:
    """Join tiny blocks that this thread's malloc cache holds with their neighbours.

    They are taken out of the cache, which is filled with others instead; freed then, they do not fit into it.

    Args:
        sizes: of which blocks; by default of those that aligning a large block splits off.
    """
    if _LIBC is None:
        return
    wanted = [size for size in sizes for _ in range(_CACHED_PER_SIZE)]
    taken = [_malloc(size) for size in wanted]
    others = [_malloc(size) for size in wanted]
    # Python may take some of the others again meanwhile: what came into the cache last is to be joined, so it goes last
    for block in (*others, *reversed(taken)):
        _free(block)


def _tiny_sizes(begin: int, end: int) -> list[int]:
    """The sizes of blocks in a part of the heap that the thread's cache may hold: the size before each tells the next.

    Joining blocks of all sizes would take a quarter of a megabyte, some of it in that very part.
    """
    sizes = set()
    while begin < end:
        chunk_bytes = ctypes.c_size_t.from_address(begin - _WORD_BYTES).value & ~_FLAGS
        if chunk_bytes < 2 * _WORD_BYTES or begin + chunk_bytes > end:
            break
        begin += chunk_bytes
        size_bytes = chunk_bytes - _WORD_BYTES
        in_use = ctypes.c_size_t.from_address(begin - _WORD_BYTES).value & _PREVIOUS_IN_USE
        if in_use and size_bytes <= _LARGEST_CACHED_BYTES:
            sizes.add(size_bytes)
    return sorted(sizes)


def _malloc(size_bytes: int) -> int:
    assert _LIBC is not None
    block: int = _LIBC.malloc(size_bytes)
    if not block:
        raise MemoryError(f"no {size_bytes} bytes of address space")
    return block


def _free(block: int) -> None:
    assert _LIBC is not None
    _LIBC.free(block)


def trim() -> None:
    """Give freed pages back to the system."""
    if _LIBC is not None:
        _LIBC.malloc_trim(0)
    elif _BIONIC is not None:
        _BIONIC.mallopt(_M_PURGE, 0)


@contextmanager
def shrinking() -> Iterator[None]:
    """Within the block, what is freed at the end of any heap goes back to the system.

    For what another thread may have allocated: `trim` leaves the ends of all heaps but the first as they are.
    """
    if _LIBC is None or not _keeps:
        yield
        return
    _LIBC.mallopt(_M_TRIM_THRESHOLD, 0)
    try:
        yield
    finally:
        _LIBC.mallopt(_M_TRIM_THRESHOLD, _NEVER)


@contextmanager
def return_freed_memory() -> Iterator[None]:
    """Within the block, every large allocation is mapped and unmapped alone.

    For measuring, so that each shows in the resident set, and for weights that stay, so that loading leaves no holes.
    """
    if not allocator_name():
        yield
        return
    trim()
    if _LIBC is not None:
        _LIBC.mallopt(_M_MMAP_MAX, _MOST_MAPPINGS)
        _LIBC.mallopt(_M_MMAP_THRESHOLD, PAGE_BYTES)
        _LIBC.mallopt(_M_TRIM_THRESHOLD, 0)  # a thread's heap may have room at its end already
    if _BIONIC is not None:
        _BIONIC.mallopt(_M_DECAY_TIME, 0)
    try:
        yield
    finally:
        keep_freed_memory()


@contextmanager
def mapped_alone(from_bytes: int = _ALONE_FROM_BYTES) -> Iterator[None]:
    """Within the block, a large allocation gets pages of its own: for what the caller keeps, beside what layers reuse.

    Unlike in `return_freed_memory` nothing that is free is given back.

    Args:
        from_bytes: what is large.
    """
    if _LIBC is None or not _keeps:
        yield
        return
    _LIBC.mallopt(_M_MMAP_MAX, _MOST_MAPPINGS)
    _LIBC.mallopt(_M_MMAP_THRESHOLD, from_bytes)
    try:
        yield
    finally:
        _LIBC.mallopt(_M_MMAP_MAX, 0)


@contextmanager
def plugged() -> Iterator[None]:
    """Within the block, nothing but small blocks comes from what is free in the heap.

    For weights that stay, together with one of the above: malloc asks for pages of its own only where no free memory
    fits, and weights in the hole that layers use would push that one elsewhere.
    """
    if _LIBC is None:
        yield
        return
    blocks = _plugs()
    try:
        yield
    finally:
        for block in blocks:
            _free(block)


def _plugs() -> list[int]:
    """Blocks that fill the free memory of the heap."""
    assert _LIBC is not None
    found: list[int] = []
    end, size = _LIBC.sbrk(0), _LARGEST_PLUG_BYTES
    while size >= _SMALLEST_PLUG_BYTES:
        block = _malloc(size)
        if block + size <= end:
            found.append(block)
        else:
            _free(block)
            size //= 2
    return found
