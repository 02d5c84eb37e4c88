"""What the patches promise, on an ncnn that has them; on the stock wheel there is nothing to hold them to."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ncnn
import numpy as np
import numpy.typing as npt
import pytest

from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.runtime import native

pytestmark = pytest.mark.patched

Array = npt.NDArray[Any]
Case = tuple[str, list[tuple[int, Any]], list[Array], tuple[int, ...]]

CAN = native.capabilities()
ROOT = Path(__file__).resolve().parents[2]

releases_gil = pytest.mark.skipif(not CAN.releases_gil, reason="this ncnn holds the GIL")
loads_zero_copy = pytest.mark.skipif(not CAN.loads_zero_copy, reason="this ncnn has no DataReaderFromBuffer")
allocates_weights = pytest.mark.skipif(not CAN.has_weight_allocator, reason="this ncnn has no weight_allocator")
saves_weights = pytest.mark.skipif(not CAN.saves_transformed_weights, reason="this ncnn has no TransformedWeights")
tiles_im2col = pytest.mark.skipif(not CAN.tiles_im2col, reason="this ncnn makes whole im2col matrices")
feeds_borrowed = pytest.mark.skipif(not CAN.feeds_borrowed_mats, reason="this ncnn crashes on borrowed inputs")


def values(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).uniform(-0.1, 0.1, shape).astype(np.float32)


def conv(channels: int, out: int, kernel: int, size: int, stride: int = 1) -> Case:
    weights = values(out * channels * kernel * kernel)
    params = [(0, out), (1, kernel), (3, stride), (4, kernel // 2), (5, 1), (6, weights.size)]
    return "Convolution", params, [weights, values(out)], (channels, size, size)


def inner_product(inputs: int, outputs: int) -> Case:
    return "InnerProduct", [(0, outputs), (1, 1), (2, inputs * outputs)], [values(inputs * outputs)] * 2, (inputs,)


def attention(width: int) -> Case:
    arrays = [array for _ in range(4) for array in (values(width * width), values(width))]
    return "MultiHeadAttention", [(0, width), (1, 8), (2, width * width)], arrays, (21, width)  # 20 would be packed


# layers that transform their weights, each by a way of its own
CASES: dict[str, tuple[Case, str]] = {
    "winograd63": (conv(32, 32, 3, 14), "default"),
    "winograd43": (conv(64, 64, 3, 14), "winograd43"),
    "winograd23": (conv(64, 64, 3, 14), "winograd23"),
    "sgemm": (conv(64, 64, 3, 14), "sgemm"),
    "pointwise": (conv(64, 128, 1, 14), "default"),
    "direct": (conv(64, 64, 3, 14), "direct"),
    "odd": (conv(3, 10, 5, 14, stride=2), "direct"),
    "inner": (("InnerProduct", [(0, 64), (1, 1), (2, 64 * 96)], [values(64 * 96), values(64)], (96,)), "default"),
    "gemm": (
        (
            "Gemm",
            [(2, 0), (3, 1), (4, 0), (5, 1), (6, 1), (7, 0), (8, 96), (9, 64), (10, 4)],
            [values(96 * 64), values(96)],
            (20, 64),
        ),
        "default",
    ),
    "attention": (attention(64), "default"),
    "deconvolution": (
        (
            "Deconvolution",
            [(0, 32), (1, 4), (3, 2), (4, 1), (5, 1), (6, 32 * 32 * 16)],
            [values(32 * 32 * 16), values(32)],
            (32, 7, 7),
        ),
        "default",
    ),
}
# those whose transforms are kept only in part or not at all, but that allocate
ALLOCATING: dict[str, tuple[Case, str]] = {
    **CASES,
    "depthwise": (
        (
            "ConvolutionDepthWise",
            [(0, 512), (1, 3), (4, 1), (5, 1), (6, 4608), (7, 512)],
            [values(4608), values(512)],
            (512, 7, 7),
        ),
        "default",
    ),
    "grouped": (
        (
            "ConvolutionDepthWise",
            [(0, 64), (1, 3), (4, 1), (5, 1), (6, 64 * 16 * 9), (7, 4)],
            [values(64 * 16 * 9), values(64)],
            (64, 7, 7),
        ),
        "default",
    ),
    "lstm": (
        (
            "LSTM",
            [(0, 64), (1, 4 * 64 * 64), (2, 0)],
            [values(4 * 64 * 64), values(256), values(4 * 64 * 64)],
            (20, 64),
        ),
        "default",
    ),
}


@contextmanager
def loaded(case: Case, option: Any) -> Iterator[native.LoadedLayer]:
    layer_type, params, arrays, _ = case
    layer = native.LoadedLayer(layer_type, native.make_params(params), arrays, option)
    try:
        yield layer
    finally:
        layer.close()


def output_of(layer: native.LoadedLayer, shape: Sequence[int]) -> Array:
    array = values(*shape, seed=1)
    bottom = native.mat_from_array(array)
    if len(shape) == 3 and layer.takes_packing:
        pack = next(pack for pack in (*native.LANES, 1) if shape[0] % pack == 0)
        bottom = ncnn.convert_packing(bottom, pack)
    if layer.takes_one_blob:
        top = native.empty_mat()
        layer.forward(bottom, top)
        return native.mat_to_array(top).copy()
    result = np.empty((shape[0], {"Gemm": 96}.get(layer.name, shape[-1])), np.float32)
    layer.forward_list([bottom], [native.mat_from_array(result)])
    return result


def stock_output(case: Case, kernel: str, options: RunOptions) -> Array:
    with loaded(case, native.make_option(options, kernel)) as layer:
        return output_of(layer, case[3])


# the interpreter lock


@releases_gil
@pytest.mark.parametrize("call", ["load", "forward"])
def test_other_threads_run_while_a_layer_loads_or_computes(call: str) -> None:
    case = conv(128, 128, 3, 56)
    option = native.make_option(RunOptions(), "winograd43")
    count, done = 0, threading.Event()

    def counting() -> None:
        nonlocal count
        while not done.is_set():
            count += 1
            time.sleep(0)  # offers the lock, which nobody takes by force here

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=counting)
    with loaded(case, option) as layer:
        array = values(*case[3])
        bottom = ncnn.convert_packing(native.mat_from_array(array), native.LANES[0])
        top = native.empty_mat()
        sys.setswitchinterval(1000)
        try:
            thread.start()
            before = seen = count
            for _ in range(200):
                before = count
                if call == "forward":
                    layer.forward(bottom, top)
                else:
                    native.LoadedLayer(case[0], native.make_params(case[1]), case[2], option).close()
                seen = count
                if seen > before:
                    break
        finally:
            sys.setswitchinterval(interval)
            done.set()
            thread.join()
    assert seen > before


ATTENTION = """
import sys
import ncnn, numpy as np
from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.runtime import native

class Counting(ncnn.PoolAllocator):
    calls = 0

    def fastMalloc(self, size):
        self.calls += 1
        return super().fastMalloc(size)

    def fastFree(self, pointer):
        super().fastFree(pointer)

width = 32
arrays = [array for _ in range(4) for array in (np.ones(width * width, np.float32), np.ones(width, np.float32))]
option = native.make_option(RunOptions(num_threads=2))
option.workspace_allocator = allocator = Counting()
params = native.make_params([(0, width), (1, 8), (2, width * width)])
layer = native.LoadedLayer("MultiHeadAttention", params, arrays, option)
held = np.ones((20, width), np.float32), np.empty((20, width), np.float32)
bottom, top = map(native.mat_from_array, held)
for _ in range(int(sys.argv[1])):
    layer.forward_list([bottom], [top])
layer.close()
print(allocator.calls)
"""


@releases_gil
@pytest.mark.parametrize("calls", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_python_allocators_in_openmp_threads_do_not_deadlock(calls: int) -> None:
    command = [sys.executable, "-c", ATTENTION, str(calls)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 10 * calls  # they were called, from whichever thread


@releases_gil
def test_errors_in_callbacks_come_through() -> None:
    class Broken(ncnn.ModelBin):  # type: ignore[misc]
        def load(self, w: int, type: int) -> Any:
            raise ValueError("no weights today")

    layer = ncnn.create_layer("Bias")
    layer.load_param(native.make_params([(0, 4)]))
    with pytest.raises(ValueError, match="no weights today"):
        layer.load_model(Broken())


# zero-copy


@pytest.fixture
def small_net(tmp_path: Path) -> Path:
    """A net of a convolution and an inner product, as x.param and x.bin."""
    param = (
        "7767517\n3 3\nInput in 0 1 a\n"
        "Convolution conv 1 1 a b 0=16 1=3 4=1 5=1 6=576\nInnerProduct ip 1 1 b c 0=8 1=1 2=2048\n"
    )
    (tmp_path / "x.param").write_text(param)
    tag = b"\0\0\0\0"
    content = tag + values(576).tobytes() + values(16).tobytes() + tag + values(2048).tobytes() + values(8).tobytes()
    (tmp_path / "x.bin").write_bytes(content)
    return tmp_path


def loaded_net(folder: Path, load: Callable[[Any], int], kernel: str = "in_place") -> tuple[int, Any]:
    net = ncnn.Net()
    net.opt = native.make_option(RunOptions(), kernel)
    assert net.load_param(str(folder / "x.param")) == 0
    return load(net), net


def net_output(net: Any) -> Array:
    array = values(4, 4, 4)
    with net.create_extractor() as extractor:
        extractor.input("a", native.mat_from_array(array).clone())
        code, mat = extractor.extract("c")
        assert code == 0
        return native.mat_to_array(mat).copy()


def buffer_of(kind: str, path: Path) -> Any:
    if kind == "mmap":
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    content = path.read_bytes()
    return {"bytes": content, "bytearray": bytearray(content), "memoryview": memoryview(content)}.get(
        kind, np.frombuffer(content, np.uint8)
    )


@loads_zero_copy
@pytest.mark.parametrize("kind", ["bytes", "bytearray", "numpy", "mmap", "memoryview"])
def test_weights_are_read_in_place_from_any_buffer_and_kept(kind: str, small_net: Path) -> None:
    def load(net: Any) -> int:
        buffer = buffer_of(kind, small_net / "x.bin")
        code = int(net.load_model(ncnn.DataReaderFromBuffer(buffer)))
        if kind == "mmap":
            with pytest.raises(BufferError):
                buffer.close()
        return code  # the net alone holds the buffer now

    _, expected = loaded_net(small_net, lambda net: int(net.load_model(str(small_net / "x.bin"))))
    code, net = loaded_net(small_net, load)
    gc.collect()
    assert code == 0
    assert np.array_equal(net_output(net), net_output(expected))


@loads_zero_copy
def test_weights_in_a_buffer_are_the_ones_computed_with(small_net: Path) -> None:
    buffer = bytearray((small_net / "x.bin").read_bytes())
    code, net = loaded_net(small_net, lambda net: int(net.load_model(ncnn.DataReaderFromBuffer(buffer))))
    assert code == 0
    buffer[-8 * 4 :] = np.full(8, 5, np.float32).tobytes()  # the last bias
    assert net_output(net).min() > 4


@loads_zero_copy
@pytest.mark.parametrize("shift", [0, 4, 1])
def test_a_reader_begins_at_its_offset_aligned_or_not(shift: int, small_net: Path) -> None:
    content = (small_net / "x.bin").read_bytes()
    reader = ncnn.DataReaderFromBuffer(b"x" * shift + content, shift)
    code, net = loaded_net(small_net, lambda net: int(net.load_model(reader)))
    _, expected = loaded_net(small_net, lambda net: int(net.load_model(str(small_net / "x.bin"))))
    assert code == 0
    assert np.array_equal(net_output(net), net_output(expected))


@loads_zero_copy
@pytest.mark.parametrize("missing", [1, 40, 5000])
def test_buffers_that_end_early_are_refused(missing: int, small_net: Path) -> None:
    content = (small_net / "x.bin").read_bytes()[:-missing]
    assert loaded_net(small_net, lambda net: int(net.load_model(ncnn.DataReaderFromBuffer(content))))[0] != 0
    assert loaded_net(small_net, lambda net: int(net.load_model_mem(content)))[0] != 0


@loads_zero_copy
def test_whole_weights_in_memory_load_with_code_0(small_net: Path) -> None:
    content = (small_net / "x.bin").read_bytes()
    assert loaded_net(small_net, lambda net: int(net.load_model_mem(content)))[0] == 0


@loads_zero_copy
def test_buffers_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(ValueError, match="not contiguous"):
        ncnn.DataReaderFromBuffer(np.zeros(16, np.uint8)[::2])
    with pytest.raises(ValueError, match="past the end"):
        ncnn.DataReaderFromBuffer(b"four", 5)


@loads_zero_copy
def test_a_reader_written_in_python_can_hand_out_buffers(small_net: Path) -> None:
    content = np.fromfile(small_net / "x.bin", np.uint8)

    class Reader(ncnn.DataReader):  # type: ignore[misc]
        at = 0
        referenced = 0

        def reference(self, size: int) -> Any:
            if size == 2048 * 4:
                return None  # have it read
            piece = content[self.at : self.at + size]
            self.at += size
            self.referenced += 1
            return piece

        def read(self, buffer: Any, size: int) -> int:
            pointer = ctypes.pythonapi.PyCapsule_GetPointer
            pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
            ctypes.memmove(pointer(buffer, None), content[self.at : self.at + size].tobytes(), size)
            self.at += size
            return size

    reader = Reader()
    code, net = loaded_net(small_net, lambda net: int(net.load_model(reader)))
    _, expected = loaded_net(small_net, lambda net: int(net.load_model(str(small_net / "x.bin"))))
    assert (code, reader.referenced) == (0, 3)
    assert np.array_equal(net_output(net), net_output(expected))


@loads_zero_copy
def test_options_that_were_not_bound_are(small_net: Path) -> None:
    option = ncnn.Option()
    for name in ("use_mapped_model_loading", "use_local_pool_allocator"):
        setattr(option, name, True)
        assert getattr(option, name) is True


# the weight allocator


class Arena(ncnn.PoolAllocator):  # type: ignore[misc]
    """Memory one behind the other; knows what is in use."""

    # ncnn's names are what it calls
    # ruff: noqa: N802
    _capsule = ctypes.pythonapi.PyCapsule_New
    _capsule.restype, _capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    _pointer = ctypes.pythonapi.PyCapsule_GetPointer
    _pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]

    def __init__(self, size_bytes: int) -> None:
        super().__init__()
        self.memory = np.zeros(size_bytes, np.uint8)
        self.end = -(-self.memory.ctypes.data // 64) * 64
        self.limit = self.memory.ctypes.data + size_bytes
        self.in_use: dict[int, int] = {}
        self.allocated_bytes = 0

    def fastMalloc(self, size: int) -> Any:
        at, self.end = self.end, self.end + (size + 64 + 63) // 64 * 64
        if self.end > self.limit:
            return None
        self.in_use[at] = size
        self.allocated_bytes += size
        return type(self)._capsule(at, None, None)

    def fastFree(self, capsule: Any) -> None:
        del self.in_use[type(self)._pointer(capsule, None)]


class Heap(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = [(name, ctypes.c_size_t) for name in _names]


def heap_bytes() -> int:
    """What malloc has given away."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        pytest.skip("this C library cannot tell what its heap holds")
    mallinfo2.restype = Heap
    found = mallinfo2()
    return int(found.uordblks + found.hblkhd)


@allocates_weights
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("fp16", [False, True])
@pytest.mark.parametrize("name", ALLOCATING)
def test_every_byte_of_weights_comes_from_the_allocator_and_goes_back(name: str, fp16: bool, threads: int) -> None:
    case, kernel = ALLOCATING[name]
    options = RunOptions(num_threads=threads, fp16=fp16)
    expected = stock_output(case, kernel, options)
    option = native.make_option(options, kernel)
    option.weight_allocator = arena = Arena(1 << 24)
    gc.collect()
    before = heap_bytes()
    with loaded(case, option) as layer:
        taken = heap_bytes() - before
        assert sum(arena.in_use.values()) > 1000
        assert taken < 40_000  # ncnn's objects, the threads it starts, and ours
        assert np.array_equal(output_of(layer, case[3]), expected)
    del layer
    gc.collect()
    assert arena.in_use == {}


@allocates_weights
def test_a_whole_net_loads_into_the_allocator(small_net: Path) -> None:
    arena = Arena(1 << 20)

    def load(net: Any) -> int:
        net.opt.weight_allocator = arena
        return int(net.load_model(str(small_net / "x.bin")))

    _, expected = loaded_net(small_net, lambda net: int(net.load_model(str(small_net / "x.bin"))), "default")
    code, net = loaded_net(small_net, load, "default")
    assert code == 0
    assert arena.allocated_bytes >= (small_net / "x.bin").stat().st_size
    assert np.array_equal(net_output(net), net_output(expected))
    net.clear()
    assert arena.in_use == {}


@allocates_weights
def test_weights_that_do_not_fit_are_refused_not_put_elsewhere() -> None:
    option = ncnn.Option()
    option.weight_allocator = arena = Arena(1000)
    layer = ncnn.create_layer("Bias")
    layer.load_param(native.make_params([(0, 4096)]))
    reader = ncnn.DataReaderFromEmpty()
    assert layer.load_model(mb=ncnn.ModelBinFromDataReader(reader), opt=option) == -100
    assert arena.in_use == {}
    del layer  # before the allocator that it was loaded with


@allocates_weights
def test_what_other_threads_allocate_meanwhile_comes_from_elsewhere() -> None:
    arena, mats = Arena(1 << 24), []

    class Slow(ncnn.ModelBin):  # type: ignore[misc]
        def load(self, w: int, type: int) -> Any:
            other = threading.Thread(target=lambda: mats.append(ncnn.Mat((3, 5))))
            other.start()
            other.join()
            return ncnn.Mat((w,))

    option = ncnn.Option()
    option.weight_allocator = arena
    layer = ncnn.create_layer("Bias")
    layer.load_param(native.make_params([(0, 16)]))
    assert layer.load_model(mb=Slow(), opt=option) == 0
    assert len(mats) == 1
    assert list(arena.in_use.values()) == [16 * 4 + 4]
    del layer  # before the allocator that it was loaded with
    assert arena.in_use == {}


# transformed weights


def transformed(case: Case, kernel: str, options: RunOptions, path: Path) -> tuple[int, Array]:
    """Saves what loading a layer makes of its weights; returns how many Mats that are, and the layer's output."""
    option = native.make_option(options, kernel)
    option.transformed_weights = kept = ncnn.TransformedWeights()
    with loaded(case, option) as layer:
        output = output_of(layer, case[3])
        assert kept.save(str(path)) == 0
        return int(kept.count), output


def given_back(path: Path) -> Any:
    """The saved weights, read where they are mapped."""
    kept = ncnn.TransformedWeights()
    with open(path, "rb") as file:
        code = kept.load(ncnn.DataReaderFromBuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    return kept if code == 0 else None


@saves_weights
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("fp16", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_transformed_weights_come_back_without_the_raw_ones(
    name: str, fp16: bool, threads: int, tmp_path: Path
) -> None:
    case, kernel = CASES[name]
    options = RunOptions(num_threads=threads, fp16=fp16)
    count, expected = transformed(case, kernel, options, tmp_path / "kept")
    assert count == {"attention": 4}.get(name, 1)
    layer_type, params, arrays, shape = case
    # what was transformed is not read again: only biases are
    blank = [np.full_like(array, np.nan) if array.size > 1000 else array for array in arrays]
    option = native.make_option(options, kernel)
    option.transformed_weights = kept = given_back(tmp_path / "kept")
    with loaded((layer_type, params, blank, shape), option) as layer:
        assert (kept.reused, kept.count) == (count, count)
        assert np.array_equal(output_of(layer, shape), expected)


@saves_weights
@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        ("sgemm", RunOptions(num_threads=2)),
        ("sgemm", RunOptions(packing=False)),
        ("sgemm", RunOptions(fp16=True)),
        ("winograd23", RunOptions()),
        ("direct", RunOptions()),
    ],
)
def test_weights_transformed_otherwise_are_refused(kernel: str, options: RunOptions, tmp_path: Path) -> None:
    case = conv(64, 64, 3, 14)
    transformed(case, "sgemm", RunOptions(), tmp_path / "kept")
    expected = stock_output(case, kernel, options)
    option = native.make_option(options, kernel)
    option.transformed_weights = kept = given_back(tmp_path / "kept")
    with loaded(case, option) as layer:
        assert kept.reused == 0
        assert np.array_equal(output_of(layer, case[3]), expected)


@saves_weights
@pytest.mark.parametrize(
    "other", [conv(64, 32, 3, 14), conv(32, 64, 3, 14), conv(64, 64, 1, 14), inner_product(64, 576)]
)
def test_weights_of_another_layer_are_refused(other: Case, tmp_path: Path) -> None:
    transformed(conv(64, 64, 3, 14), "sgemm", RunOptions(), tmp_path / "kept")
    layer_type, params, arrays, shape = other
    arrays = [arrays[0], values(dict(params)[0])]
    expected = stock_output((layer_type, params, arrays, shape), "sgemm", RunOptions())
    option = native.make_option(RunOptions(), "sgemm")
    option.transformed_weights = kept = given_back(tmp_path / "kept")
    with loaded((layer_type, params, arrays, shape), option) as layer:
        assert kept.reused == 0
        assert np.array_equal(output_of(layer, shape), expected)


@saves_weights
def test_a_net_keeps_the_weights_of_all_its_layers(small_net: Path, tmp_path: Path) -> None:
    def load(kept: Any) -> tuple[int, Any]:
        def with_kept(net: Any) -> int:
            net.opt.transformed_weights = kept
            return int(net.load_model(str(small_net / "x.bin")))

        return loaded_net(small_net, with_kept, "default")

    first = ncnn.TransformedWeights()
    code, net = load(first)
    assert code == 0
    assert first.count == 2
    assert first.save(str(tmp_path / "kept")) == 0
    second = given_back(tmp_path / "kept")
    code, again = load(second)
    assert (code, second.reused) == (0, 2)
    assert np.array_equal(net_output(again), net_output(net))


@saves_weights
def test_damaged_files_are_refused_or_harmless(tmp_path: Path) -> None:
    case = conv(64, 64, 3, 14)
    transformed(case, "sgemm", RunOptions(), tmp_path / "kept")
    whole = (tmp_path / "kept").read_bytes()
    assert given_back(tmp_path / "kept") is not None
    random = np.random.default_rng(0)
    head = 64 + 320
    for trial in range(300):
        content = bytearray(whole)
        if trial % 3 == 0:
            del content[int(random.integers(len(content))) :]
        else:
            for at in random.integers(0, head, 1 + trial % 4):
                content[at] = int(random.integers(256))
        reader = ncnn.DataReaderFromBuffer(bytes(content))
        kept = ncnn.TransformedWeights()
        if kept.load(reader) != 0:
            assert kept.count == 0
            continue
        option = native.make_option(RunOptions(), "sgemm")
        option.transformed_weights = kept
        with loaded(case, option) as layer:
            output_of(layer, case[3])


@saves_weights
def test_a_file_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    assert ncnn.TransformedWeights().save(str(tmp_path / "none" / "kept")) != 0
    if Path("/dev/full").exists():
        kept = ncnn.TransformedWeights()
        option = native.make_option(RunOptions(), "sgemm")
        option.transformed_weights = kept
        with loaded(conv(64, 64, 3, 14), option):
            assert kept.save("/dev/full") != 0


# im2col by tiles


@tiles_im2col
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("case", "whole_bytes"),
    [(conv(32, 64, 3, 112), 4 * 32 * 9 * 112 * 112), (conv(64, 64, 5, 56), 4 * 64 * 25 * 56 * 56)],
)
def test_the_workspace_of_sgemm_is_a_few_tiles(case: Case, whole_bytes: int, threads: int) -> None:
    option = native.make_option(RunOptions(num_threads=threads), "sgemm")
    with loaded(case, option) as layer:
        option.workspace_allocator = arena = Arena(1 << 25)
        found = output_of(layer, case[3])
        assert arena.in_use == {}
        # the padded input is in it, too
        assert arena.allocated_bytes < 0.3 * whole_bytes
    expected = stock_output(case, "direct", RunOptions())
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@tiles_im2col
@pytest.mark.parametrize("size", [7, 13, 30, 61])
@pytest.mark.parametrize("kernel", [1, 3])
def test_threads_and_steps_change_no_bit(kernel: int, size: int) -> None:
    case = conv(24, 40, kernel, size)
    one, two = (stock_output(case, "sgemm", RunOptions(num_threads=threads)) for threads in (1, 2))
    assert np.array_equal(one, two)


# borrowed inputs


@feeds_borrowed
@pytest.mark.parametrize("first", ["ReLU r 1 1 a b", "BinaryOp s 1 1 a b 0=0 1=1 2=3.0"])
def test_a_net_may_be_fed_memory_of_the_caller(first: str) -> None:
    net = ncnn.Net()
    net.opt = native.make_option(RunOptions())
    assert net.load_param_mem(f"7767517\n2 2\nInput in 0 1 a\n{first}\n") == 0
    assert net.load_model(ncnn.DataReaderFromEmpty()) == 0
    array = np.arange(-8, 8, dtype=np.float32)
    with net.create_extractor() as extractor:
        extractor.input("a", ncnn.Mat(array))
        code, mat = extractor.extract("b")
    assert code == 0
    expected = np.maximum(array, 0) if first.startswith("ReLU") else array + 3
    assert np.array_equal(mat.numpy(), expected)
    assert np.array_equal(array, np.arange(-8, 8, dtype=np.float32))
