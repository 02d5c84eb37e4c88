"""`flexnn_ncnn.Net` beside `ncnn.Net`: the same calls, the same answers.

The cases are those of ncnn's own Python tests for Net, Extractor, Option and Mat, told anew, and more.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ncnn
import numpy as np
import numpy.typing as npt
import pytest

import flexnn_ncnn
from flexnn_ncnn.errors import BudgetError, InputError, PlanError, SizeError, UsageError
from tests.integration import tiny_models
from tests.integration.quick_plans import plans_made_here
from tests.integration.tiny_models import layer, write

Array = npt.NDArray[Any]

BUDGETS = {"without": None, "tight": "3.2MB"}
EVERY_BUDGET = pytest.mark.parametrize("subject", [None, "3.2MB", "80MB"], indirect=True)
RNG = np.random.default_rng(11)
ALLOCATOR = ncnn.PoolAllocator()  # must outlive what is in it
PICTURE = RNG.random((3, 24, 24), np.float32)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with plans_made_here():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and plans, shared so that each plan is made once."""
    return tmp_path_factory.mktemp("net")


@pytest.fixture(scope="module")
def branches(folder: Path) -> Path:
    """A convolution whose output goes two ways: 3x24x24 -> 400 numbers, and 3x24x24 -> 8x24x24."""
    layers = [
        layer("Input", "data", "", "in0", p0=24, p1=24, p2=3),
        layer("Convolution", "stem", "in0", "feat", p0=16, p1=3, p4=1, p5=1, p6=16 * 3 * 9, p9=1),
        layer("Split", "ways", "feat", "feat_0 feat_1"),
        layer("Pooling", "pool", "feat_0", "most", p0=0, p1=2, p2=2),
        layer("InnerProduct", "fc", "most", "small", p0=400, p1=1, p2=400 * 2304),
        layer("Convolution", "head", "feat_1", "wide", p0=8, p1=3, p4=1, p5=1, p6=8 * 16 * 9),
        layer("Sigmoid", "squash", "wide", "big"),
    ]
    return write(layers, folder / "branches.param")


@dataclass(frozen=True)
class Subject:
    """A kind of net under test, beside stock ncnn."""

    budget: str | None
    cache: Path

    def net(self) -> flexnn_ncnn.Net:
        return flexnn_ncnn.Net(budget=self.budget, cache_dir=self.cache)

    def same(self, script: Callable[[Any], list[Any]], tolerance: float = 1e-3) -> list[Any]:
        """What `script` finds with this net, which must be what it finds with ncnn's."""
        found, expected = script(self.net()), script(ncnn.Net())
        assert len(found) == len(expected)
        for place, (mine, other) in enumerate(zip(found, expected, strict=True)):
            assert_same(mine, other, f"value {place}: {mine!r}, stock {other!r}", tolerance)
        return found


def assert_same(mine: Any, other: Any, message: str, tolerance: float = 1e-3) -> None:
    if isinstance(other, ncnn.Mat):
        assert isinstance(mine, ncnn.Mat), message
        shapes = [(mat.dims, mat.w, mat.h, mat.d, mat.c, mat.elemsize, mat.elempack) for mat in (mine, other)]
        assert shapes[0] == shapes[1], message
        if other.empty():  # numpy would look at it and crash
            return
        mine, other = np.array(mine), np.array(other)
    if isinstance(other, np.ndarray):
        assert mine.shape == other.shape, message
        largest = float(np.abs(other).max(initial=1e-30))
        np.testing.assert_allclose(mine, other, 0, tolerance * largest, err_msg=message)
        return
    assert mine == other, message


@pytest.fixture(params=BUDGETS.values(), ids=BUDGETS)
def subject(request: pytest.FixtureRequest, folder: Path) -> Subject:
    return Subject(request.param, folder / "cache")


@pytest.fixture
def planned(folder: Path) -> Iterator[flexnn_ncnn.Net]:
    with flexnn_ncnn.Net("3.2MB", cache_dir=folder / "cache") as net:
        net.opt.num_threads = 1
        yield net


def load(net: Any, param: Path) -> Any:
    net.opt.num_threads = 1
    assert net.load_param(os.fspath(param)) == 0
    assert net.load_model(os.fspath(param.with_suffix(".bin"))) == 0
    return net


def mat(array: Array) -> ncnn.Mat:
    return ncnn.Mat(array).clone()


def answer(net: Any, blob: str | int = "small", picture: Array = PICTURE) -> Any:
    with net.create_extractor() as ex:
        assert ex.input("in0", mat(picture)) == 0
        ret, out = ex.extract(blob)
        assert ret == 0
        return out


@EVERY_BUDGET
def test_files(subject: Subject, branches: Path) -> None:
    def script(net: Any) -> list[Any]:
        with net:
            load(net, branches)
            graph = [net.input_names(), net.input_indexes(), net.output_names(), net.output_indexes()]
            graph += [[(blob.name, blob.producer, blob.consumer) for blob in net.blobs()]]
            graph += [[(one.name, one.type, one.bottoms, one.tops) for one in net.layers()]]
            graph += [answer(net)]
            net.clear()
            return [*graph, net.blobs(), net.layers(), net.input_names(), net.output_indexes()]

    assert subject.same(script)[2] == ["small", "big"]


def test_a_net_is_loaded_again_and_with_another_model(subject: Subject, branches: Path, folder: Path) -> None:
    other = tiny_models.two_ways(folder)
    numbers = RNG.random((2, 64), np.float32)

    def script(net: Any) -> list[Any]:
        first = answer(load(net, branches))
        load(net, other)
        with net.create_extractor() as ex:  # ncnn's must be gone before its net is cleared
            codes = [ex.input("left", mat(numbers[0])), ex.input("right", mat(numbers[1]))]
            found = [*codes, *ex.extract("sum"), *ex.extract("product")]
        net.clear()
        return [first, *found, answer(load(net, branches), "big")]

    subject.same(script)


@pytest.mark.parametrize("encoding", ["raw", "fp16"])
def test_memory_and_readers(encoding: str, subject: Subject, branches: Path) -> None:
    data = branches.with_suffix(".bin").read_bytes()
    if encoding == "fp16":  # zeros but for the tags: ncnn's own test does so
        sizes = [(432, 16), (400 * 2304, 400), (1152, 8)]
        data = b"".join(b"\x47\x6b\x30\x01" + bytes(weights * 2 + biases * 4) for weights, biases in sizes)

    class Reader(ncnn.DataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.rest = memoryview(data)

        def read(self, buf: Any, size: int) -> int:
            import ctypes

            address = ctypes.pythonapi.PyCapsule_GetPointer
            address.restype, address.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
            taken, self.rest = self.rest[:size], self.rest[size:]
            ctypes.memmove(address(buf, None), bytes(taken), len(taken))
            return len(taken)

    def from_memory(net: Any) -> list[Any]:
        net.opt.num_threads = 1
        return [net.load_param_mem(branches.read_text()), net.load_model_mem(data), answer(net)]

    def from_reader(net: Any) -> list[Any]:
        net.opt.num_threads = 1
        return [net.load_param(os.fspath(branches)), net.load_model(Reader()), answer(net)]

    def from_nothing(net: Any) -> list[Any]:
        net.opt.num_threads = 1
        return [net.load_param(os.fspath(branches)), net.load_model(dr=ncnn.DataReaderFromEmpty()), answer(net)]

    assert np.abs(np.array(subject.same(from_memory)[-1])).max() == (
        0 if encoding == "fp16" else pytest.approx(1, abs=9)
    )
    subject.same(from_reader)
    assert not np.array(subject.same(from_nothing)[-1]).any()


def test_copies_of_models_go_with_the_net(folder: Path, branches: Path) -> None:
    kept = folder / "copies"
    net = flexnn_ncnn.Net("3.2MB", cache_dir=kept)
    for _ in range(2):
        assert net.load_param_mem(branches.read_text()) == 0
        net.load_model_mem(branches.with_suffix(".bin").read_bytes())
        assert len(list((kept / "nets").iterdir())) == 1
    net.clear()
    assert list((kept / "nets").iterdir()) == []
    net.load_param_mem(branches.read_text())
    del net
    assert list((kept / "nets").iterdir()) == []


def test_what_a_killed_process_left_is_removed(folder: Path, branches: Path) -> None:
    kept = folder / "killed"
    left = kept / "nets" / "left"
    left.mkdir(parents=True)
    (left / "lock").touch()
    with flexnn_ncnn.Net("3.2MB", cache_dir=kept) as net, flexnn_ncnn.Net("3.2MB", cache_dir=kept) as other:
        net.load_param_mem(branches.read_text())
        other.load_param_mem(branches.read_text())
        assert not left.exists()
        assert len(list((kept / "nets").iterdir())) == 2


def test_a_binary_param_by_index(subject: Subject, branches: Path, folder: Path) -> None:
    from param_tools.model_io import read_param
    from param_tools.param_binary import format_param_binary

    binary = folder / "branches.param.bin"
    binary.write_bytes(format_param_binary(read_param(branches)))

    def script(net: Any) -> list[Any]:
        net.opt.num_threads = 1
        codes = [net.load_param_bin(os.fspath(binary)), net.load_model(os.fspath(branches.with_suffix(".bin")))]
        (fed,), outputs = net.input_indexes(), net.output_indexes()
        with net.create_extractor() as ex:
            codes += [ex.input(fed, mat(PICTURE)), outputs]
            for index in outputs:
                codes += ex.extract(index)
        return [*codes, net.load_param(os.fspath(binary)), net.load_param_bin(os.fspath(branches))]

    subject.same(script)


def test_return_codes_of_files(
    subject: Subject, branches: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    custom = folder / "custom.param"
    custom.write_text("7767517\n2 2\nInput data 0 1 data\nNoSuchLayer one 1 1 data output\n")
    short = folder / "short.bin"
    short.write_bytes(branches.with_suffix(".bin").read_bytes()[:2000])

    def script(net: Any) -> list[Any]:
        codes = [net.load_model(os.fspath(short))]
        codes += [net.load_param(os.fspath(folder / "nosuch.param")), net.load_param(os.fspath(custom)), net.blobs()]
        codes += [net.load_param(os.fspath(branches)), net.load_param(os.fspath(folder / "nosuch.param"))]
        codes += [len(net.blobs()), net.load_model(os.fspath(folder / "nosuch.bin")), net.load_model(os.fspath(short))]
        return [*codes, net.load_param_mem("garbage"), net.input_names(), net.load_param_bin("nosuch")]

    found = subject.same(script)
    assert found == [-1, -1, -1, [], 0, -1, 8, -1, -1, -1, [], -1]
    if subject.budget:
        for words in ("comes after load_param", "nosuch.param: there is no such file", "'NoSuchLayer'", "ends inside"):
            assert words in caplog.text


def test_return_codes_of_blobs(subject: Subject, branches: Path) -> None:
    def script(net: Any) -> list[Any]:
        nothing = net.create_extractor()
        codes = [nothing.input("in0", mat(PICTURE)), nothing.extract("small")[0], nothing.extract(0)[0]]
        load(net, branches)
        ex, filled = net.create_extractor(), ncnn.Mat()
        codes += [*ex.extract("small"), *ex.extract("feat"), *ex.extract("in0"), ex.extract("small", filled)]
        codes += [ex.input("nosuch", mat(PICTURE)), ex.input(99, mat(PICTURE)), ex.input(-1, mat(PICTURE))]
        codes += [*ex.extract("nosuch"), *ex.extract(99), ex.extract("nosuch", filled), filled]
        codes += [ex.input("in0", ncnn.Mat()), ex.extract("small")[0]]
        codes += [ex.input("in0", mat(PICTURE)), *ex.extract("small")]
        ex.clear()
        codes += [ex.input("in0", mat(PICTURE)), ex.extract("small")[0], ex.extract(0)[0]]
        last = net.create_extractor()
        net.clear()
        return [*codes, last.input("in0", mat(PICTURE)), last.extract("small")[0]]

    found = subject.same(script)
    assert [value for value in found if isinstance(value, int)].count(-1) == 14


@EVERY_BUDGET
def test_every_way_to_extract(subject: Subject, branches: Path) -> None:
    def script(net: Any) -> list[Any]:
        load(net, branches)
        names = [blob.name for blob in net.blobs()]
        given = ncnn.Mat()
        with net.create_extractor() as ex:
            ex.set_light_mode(True)
            found = [ex.input(names.index("in0"), mat(PICTURE))]
            found += [*ex.extract("feat"), *ex.extract(names.index("feat")), *ex.extract("feat", type=0)]
            found += [
                ex.extract("feat", given),
                given.clone(),
                ex.extract(names.index("feat"), given, 0),
                given.clone(),
            ]
            found += [ex.extract(blob_name="feat", feat=given, type=0), *ex.extract(blob_index=names.index("feat"))]
            found += [*ex.extract("small"), *ex.extract("big"), *ex.extract("small", 0)]
        return found

    subject.same(script)


@EVERY_BUDGET
def test_raw_blobs_hold_the_same_values(subject: Subject, branches: Path) -> None:
    load(net := subject.net(), branches)
    with net.create_extractor() as ex:
        ex.set_blob_allocator(ALLOCATOR)
        ex.set_workspace_allocator(ALLOCATOR)
        ex.input("in0", mat(PICTURE))
        _, plain = ex.extract("feat")
        assert plain.allocator is None
        ret, raw = ex.extract("feat", type=1)
        assert (ret, raw.elempack * raw.c, raw.allocator is ALLOCATOR) == (0, 16, True)
        unpacked = ncnn.Mat()
        ncnn.convert_packing(raw, unpacked, 1)
        np.testing.assert_allclose(np.array(unpacked), np.array(plain), rtol=1e-6)
    kept = raw.clone()
    assert kept.dims == 3


def test_extractors_come_from_nets(subject: Subject, branches: Path) -> None:
    with pytest.raises(TypeError, match="No constructor"):
        flexnn_ncnn.Extractor()
    net = load(subject.net(), branches)
    assert isinstance(net.create_extractor(), flexnn_ncnn.Extractor)
    with pytest.raises(TypeError):
        net.create_extractor().extract(None)
    with pytest.raises(TypeError):
        net.create_extractor().extract("small", "type")


@pytest.mark.parametrize("light", [True, False])
@pytest.mark.parametrize("asked", [("feat", "small"), ("feat",), ("small", "big")], ids=str)
def test_an_extractor_answers_once(asked: tuple[str, ...], light: bool, subject: Subject, branches: Path) -> None:
    """What no layer has read since stays what it was, whatever is fed."""

    def script(net: Any) -> list[Any]:
        ex = load(net, branches).create_extractor()
        ex.set_light_mode(light)
        found = []
        for picture in (PICTURE, PICTURE * 2):
            found += [ex.input("in0", mat(picture)), *(ex.extract(blob)[1] for blob in asked)]
        return found

    found = subject.same(script)
    assert np.array_equal(np.array(found[len(asked)]), np.array(found[-1]))


def test_other_data_after_a_blob_that_was_not_extracted_yet(planned: flexnn_ncnn.Net, branches: Path) -> None:
    ex = load(planned, branches).create_extractor()
    ex.input("in0", PICTURE)
    ex.extract("small")
    ex.input("in0", PICTURE * 2)
    assert_same(ex.extract("big")[1], answer(load(ncnn.Net(), branches), "big", PICTURE * 2), "big")


def test_blobs_in_the_middle_are_fed_and_extracted(subject: Subject, branches: Path) -> None:
    feat = RNG.random((16, 24, 24), np.float32)

    def script(net: Any) -> list[Any]:
        load(net, branches)
        found = []
        for fed, asked in (("feat", "small"), ("feat_1", "big"), ("wide", "big")):
            ex = net.create_extractor()
            found += [ex.input(fed, mat(feat[:8] if fed == "wide" else feat)), *ex.extract(asked)]
        ex = net.create_extractor()
        return [*found, ex.input("feat", mat(feat)), *ex.extract("feat"), *ex.extract("most"), ex.extract("in0")[0]]

    subject.same(script)


def test_several_inputs_and_outputs_in_any_order(subject: Subject, folder: Path) -> None:
    param = tiny_models.two_ways(folder)
    left, right = RNG.random((2, 64), np.float32)

    def script(net: Any) -> list[Any]:
        ex = load(net, param).create_extractor()
        found = [ex.input("right", mat(right))]
        if subject.budget and isinstance(net, flexnn_ncnn.Net):  # stock ncnn multiplies with what it finds
            assert ex.extract("product")[0] == -100
        return [*found, ex.input("left", mat(left)), *ex.extract("product"), *ex.extract("sum")]

    subject.same(script)


def test_an_output_that_needs_no_more_than_what_is_fed(subject: Subject, folder: Path) -> None:
    layers = [
        layer("Input", "a", "", "left", p0=64),
        layer("Input", "b", "", "right", p0=64),
        layer("ReLU", "one", "left", "first"),
        layer("Sigmoid", "two", "right", "second"),
    ]
    param = write(layers, folder / "apart.param")
    numbers = RNG.standard_normal(64).astype(np.float32)

    def script(net: Any) -> list[Any]:
        ex = load(net, param).create_extractor()
        found = [ex.input("left", mat(numbers)), *ex.extract("first")]
        if subject.budget and isinstance(net, flexnn_ncnn.Net):  # stock ncnn crashes
            assert ex.extract("second")[0] == -100
        return [*found, ex.input("right", mat(numbers)), *ex.extract("second")]

    subject.same(script)


def test_what_only_the_wanted_part_takes(subject: Subject, branches: Path) -> None:
    """Pictures of another size fit the convolutions, whatever comes after them."""
    picture = RNG.random((3, 40, 30), np.float32)

    def script(net: Any) -> list[Any]:
        load(net, branches)
        return [answer(net, "feat", picture), answer(net, "big", picture), answer(net, "big")]

    subject.same(script)


@pytest.mark.parametrize("shape", [(64,), (6, 10), (3, 5, 7), (2, 3, 4, 5)])
def test_mats_of_every_rank(shape: tuple[int, ...], subject: Subject, folder: Path) -> None:
    param = write([layer("Input", "a", "", "in0"), layer("ReLU", "r", "in0", "out0")], folder / "relu.param")
    values = RNG.standard_normal(shape).astype(np.float32)

    def script(net: Any) -> list[Any]:
        ex = load(net, param).create_extractor()
        return [ex.input("in0", mat(values)), *ex.extract("in0"), *ex.extract("out0")]

    assert np.array_equal(np.array(subject.same(script)[4]), np.maximum(values, 0))


def test_mats_that_are_packed_or_narrow(subject: Subject, branches: Path) -> None:
    feat = RNG.random((16, 24, 24), np.float32)
    packed, narrow = ncnn.Mat(), ncnn.Mat()
    ncnn.convert_packing(mat(feat), packed, 4)
    ncnn.cast_float32_to_float16(mat(feat), narrow)
    assert (packed.elempack, narrow.elemsize) == (4, 2)

    def script(net: Any) -> list[Any]:
        ex = load(net, branches).create_extractor()
        return [ex.input("feat", packed), *ex.extract("big")]

    expected = subject.same(script)[-1]
    if subject.budget:  # stock ncnn takes the bits for others on x86
        with load(subject.net(), branches).create_extractor() as ex:
            ex.input("feat", narrow)
            assert_same(ex.extract("big")[1], expected, "16 bits")


def test_mats_that_hold_a_batch(planned: flexnn_ncnn.Net, branches: Path) -> None:
    batch = ncnn.Mat(np.zeros((2, 3, 24, 24), np.float32), batch_index=0)
    assert batch.n == 2
    with load(planned, branches).create_extractor() as ex, pytest.raises(InputError, match="a batch of 2"):
        ex.input("in0", batch)


def test_mats_of_pixels(subject: Subject, branches: Path) -> None:
    pixels = RNG.integers(0, 255, (30, 40, 3)).astype(np.uint8)
    resized = ncnn.Mat.from_pixels_resize(pixels, ncnn.Mat.PixelType.PIXEL_BGR2RGB, 40, 30, 24, 24)
    resized.substract_mean_normalize([100.0, 110.0, 120.0], [0.01, 0.02, 0.03])

    def script(net: Any) -> list[Any]:
        ex = load(net, branches).create_extractor()
        return [ex.input("in0", resized.clone()), *ex.extract("big")]

    subject.same(script)


@pytest.mark.parametrize("dtype", ["float64", "float16", "uint8", ">f4"])
def test_arrays_are_taken_like_mats(dtype: str, subject: Subject, branches: Path) -> None:
    picture = RNG.integers(0, 9, (24, 24, 3))
    expected = answer(load(ncnn.Net(), branches), "big", picture.transpose(2, 0, 1).astype(np.float32).copy())
    with load(subject.net(), branches).create_extractor() as ex:
        assert ex.input("in0", picture.astype(dtype).transpose(2, 0, 1)) == 0
        assert_same(ex.extract("big")[1], expected, dtype)


def test_ids_are_arrays_of_integers(subject: Subject, folder: Path) -> None:
    param = tiny_models.lookup(folder)
    ids = np.array([1, 49, 1, 0, 7])
    with load(ncnn.Net(), param).create_extractor() as ex:
        ex.input("in0", mat(ids.astype(np.int32)))
        _, expected = ex.extract("out0")
    for value in (ids, ids.astype(np.uint8), mat(ids.astype(np.int32))):
        with load(subject.net(), param).create_extractor() as ex:
            assert ex.input("in0", value) == 0
            assert_same(ex.extract("out0")[1], expected, str(value))


def test_results_are_the_callers(subject: Subject, branches: Path) -> None:
    with load(subject.net(), branches) as net:
        first = answer(net, "big")
        before = np.array(first).copy()
        answer(net, "big", PICTURE * 3)
        net.clear()
        assert np.array_equal(np.array(first), before)


def test_custom_layers(subject: Subject, folder: Path) -> None:
    """Before, between and after layers of ncnn's; the first as in ncnn's own test."""
    lines = ["Input data 0 1 in0", "PlusOne first 1 1 in0 a", "InnerProduct fc 1 1 a b 0=8 1=1 2=128"]
    lines += ["Split s 1 2 b b0 b1", "ReLU r 1 1 b0 c", "Swap swap 2 2 b1 c d e", "BinaryOp add 2 1 d e out0 0=1"]
    weights = np.linspace(-1, 1, 128, dtype=np.float32).tobytes() + bytes(32)
    values = RNG.random(16, np.float32)

    class PlusOne(ncnn.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.one_blob_only = True

        def forward(self, bottom_blob: Any, top_blob: Any, opt: Any) -> int:
            held = np.array(bottom_blob) + 1
            top_blob.clone_from(ncnn.Mat(held), opt.blob_allocator)
            return 0

    class Swap(ncnn.Layer):  # type: ignore[misc]
        def forward(self, bottom_blobs: Any, top_blobs: Any, opt: Any) -> int:
            for top, bottom in zip(top_blobs, bottom_blobs[::-1], strict=True):
                top.clone_from(bottom, opt.blob_allocator)
            return 0

    gone: list[Any] = []
    made: list[Any] = []

    def creator(kind: type) -> Callable[[], Any]:
        def create() -> Any:
            made.append(kind())
            return made[-1]

        return create

    def script(net: Any) -> list[Any]:
        net.opt.num_threads = 1
        found = [net.register_custom_layer(kind.__name__, creator(kind), gone.append) for kind in (PlusOne, Swap)]
        found += [
            net.load_param_mem(f"7767517\n{len(lines)} 9\n" + "\n".join(lines)),
            net.load_model_mem(bytes(4) + weights),
        ]
        found += [len(net.blobs()), len(net.layers())]
        for asked in ("out0", "a", "d"):
            with net.create_extractor() as ex:
                found += [ex.input("in0", mat(values)), *ex.extract(asked)]
        net.clear()
        return [*found, len(net.blobs()), net.load_param_mem("7767517\n1 1\nInput data 0 1 a\n")]

    subject.same(script)
    assert len(made) == len(gone) > 0


def test_a_custom_layer_that_fails(planned: flexnn_ncnn.Net) -> None:
    class Failing(ncnn.Layer):  # type: ignore[misc]
        code = -7

        def __init__(self) -> None:
            super().__init__()
            self.one_blob_only = True

        def forward(self, bottom_blob: Any, top_blob: Any, opt: Any) -> int:
            if self.code:
                return self.code
            raise RuntimeError("mine")

    assert planned.register_custom_layer("Failing", Failing, lambda made: None) == 0
    assert planned.load_param_mem("7767517\n2 2\nInput data 0 1 in0\nFailing one 1 1 in0 out0\n") == 0
    planned.load_model_mem(b"")
    with planned.create_extractor() as ex:
        ex.input("in0", np.ones(3))
        assert ex.extract("out0")[0] == -7
        Failing.code = 0
        with pytest.raises(RuntimeError, match="mine"):
            ex.extract("out0")
    for kind in ("Convolution", 256):
        with pytest.raises(UsageError, match="a name that ncnn has no layer of"):
            planned.register_custom_layer(kind, Failing, lambda made: None)


@pytest.mark.parametrize(
    "settings",
    [
        {"use_packing_layout": False, "use_fp16_storage": False},
        {"use_bf16_storage": True, "use_fp16_storage": False},
        {"use_winograd_convolution": False, "use_sgemm_convolution": False, "num_threads": 2, "lightmode": False},
    ],
    ids=str,
)
def test_options_decide_results(settings: dict[str, Any], branches: Path, folder: Path) -> None:
    def script(net: Any) -> list[Any]:
        load(net, branches)
        net.clear()
        for name, value in settings.items():
            setattr(net.opt, name, value)
        net.load_param(os.fspath(branches))
        net.load_model(os.fspath(branches.with_suffix(".bin")))
        return [answer(net, blob) for blob in ("small", "big")]

    both_round_to_8_bits = settings.get("use_bf16_storage", False)
    Subject("3.2MB", folder / "cache").same(script, 2e-2 if both_round_to_8_bits else 1e-3)


def test_an_option_is_copied_in_and_lives_in_the_net(subject: Subject) -> None:
    net, option = subject.net(), ncnn.Option()
    option.num_threads = 7
    net.opt = option
    option.num_threads = 5
    assert net.opt.num_threads == 7
    net.opt.num_threads = 3
    assert net.opt.num_threads == 3
    names = [name for name in dir(option) if not name.startswith("_")]
    defaults = {name: getattr(ncnn.Option(), name) for name in names}
    assert {name: getattr(subject.net().opt, name) for name in names} == defaults


def test_what_cannot_be_had_under_a_budget(planned: flexnn_ncnn.Net, branches: Path) -> None:
    with pytest.raises(UsageError, match="load_param_mem"):
        planned.load_param(ncnn.DataReaderFromEmpty())
    with pytest.raises(UsageError, match="GPU"):
        planned.set_vulkan_device(0)
    assert planned.vulkan_device() is None
    load(planned, branches)
    planned.opt.use_vulkan_compute = True
    with pytest.raises(UsageError, match="about main memory"):
        planned.create_extractor()
    planned.opt.use_vulkan_compute = False
    with pytest.raises(UsageError, match="keys and values"):
        planned.create_extractor().set_kvcache_allocator(ncnn.PoolAllocator())
    with pytest.raises(UsageError, match="make another Net"):
        planned.set_budget(None)
    with pytest.raises(TypeError):
        planned.load_param()
    with pytest.raises(SizeError):
        flexnn_ncnn.Net("12 parsecs")


def test_what_stock_ncnn_would_crash_on_or_answer_wrongly(
    planned: flexnn_ncnn.Net, branches: Path, folder: Path
) -> None:
    planned.load_param(os.fspath(branches))
    with pytest.raises(UsageError, match="no weights are loaded"):
        answer(planned)
    load(planned, branches)
    with pytest.raises(InputError, match="reads 3 channels, not 4"):
        answer(planned, "small", np.ones((4, 24, 24), np.float32))
    with planned.create_extractor() as ex:
        ex.input("in0", [[1.0], [2.0, 3.0]])
        with pytest.raises((InputError, ValueError)):
            ex.extract("small")
    assert answer(planned).w == 400
    with flexnn_ncnn.Net("1MB", cache_dir=folder / "cache") as small:
        with pytest.raises(BudgetError) as refused:
            answer(load(small, branches))
        small.set_budget(refused.value.smallest_bytes)
        assert answer(small).w == 400


def test_plans_are_made_once(branches: Path, folder: Path) -> None:
    said: list[str] = []

    def extract_twice() -> None:
        with flexnn_ncnn.Net(
            "3.2MB", cache_dir=folder / "once", progress=lambda *what: said.append(str(what[0]))
        ) as net:
            load(net, branches)
            for _ in range(2):
                with net.create_extractor() as ex:
                    ex.input("in0", PICTURE)
                    assert ex.extract("most")[0] == ex.extract("feat")[0] == 0
                assert net.plan.outputs == ("feat", "most")

    extract_twice()
    assert said
    said.clear()
    extract_twice()
    assert said == []


def test_a_budget_can_be_changed(branches: Path, folder: Path) -> None:
    with flexnn_ncnn.Net("80MB", cache_dir=folder / "cache") as net:
        with pytest.raises(PlanError, match="extract a blob first"):
            net.plan  # noqa: B018
        expected = answer(load(net, branches))
        assert (net.plan.vehicle, net.plan.outputs) == ("net", ("small", "big"))  # one inference for all outputs
        net.set_budget("3.2MB").result()
        assert_same(answer(net), expected, "after")
        assert (net.plan.vehicle, net.plan.budget_bytes) == ("layers", 3_200_000)
        answer(net, "feat")
        assert net.plan.budget_bytes == 3_200_000
        assert net.trace.seconds > 0
    with pytest.raises(UsageError, match="give Net a budget when it is made"):
        flexnn_ncnn.Net().set_budget("3.2MB")


def test_a_budget_that_follows_memory(branches: Path, folder: Path) -> None:
    with flexnn_ncnn.Net("auto", cache_dir=folder / "cache") as net:
        assert answer(load(net, branches)).w == 400
        assert net.plan.budget_bytes > 0
