"""The door to ncnn on the real wheel: what the raw bindings do wrong, and that ours does not."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import ncnn
import numpy as np
import pytest

from flexnn_ncnn.records.layout import BlobLayout, part_view
from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.runtime import native
from flexnn_ncnn.runtime.memory.blob_memory import Blob
from tests.integration.pipeline import Array, feed
from tests.property.slicing_stock import model_of, write_random

ROOT = Path(__file__).resolve().parents[2]
OPTION = native.make_option(RunOptions())
WIDEST = native.LANES[0]


_KEPT: list[Array] = []


def mat_of(array: Array) -> native.Mat:
    """A Mat over an array that nobody else need keep."""
    _KEPT.append(array)
    return native.mat_from_array(array)


def relu(slope: float = 0.0) -> native.LoadedLayer:
    return native.LoadedLayer("ReLU", native.make_params([(0, slope)]), [], OPTION)


def convolution(
    channels: int, outputs: int, kernel: int = 3, options: RunOptions | None = None
) -> tuple[native.LoadedLayer, Array]:
    weights = feed(outputs, channels, kernel, kernel)
    params = native.make_params([(0, outputs), (1, kernel), (5, 0), (6, weights.size)])
    option = native.make_option(options or RunOptions())
    return native.LoadedLayer("Convolution", params, [weights.reshape(-1)], option, "conv"), weights


def run_child(code: str) -> subprocess.CompletedProcess[str]:
    prelude = """
import ncnn, numpy as np
from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.runtime import native
"""
    return subprocess.run(
        [sys.executable, "-c", prelude + textwrap.dedent(code)],
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def crashes(code: str) -> bool:
    return run_child(code).returncode < 0


# Traps


def test_a_positional_call_crashes_and_ours_does_not() -> None:
    raw = """
        layer = ncnn.create_layer("ReLU")
        layer.load_param(ncnn.ParamDict())
        layer.create_pipeline(ncnn.Option())
        layer.forward(ncnn.Mat(np.ones(4, np.float32)), ncnn.Mat(), ncnn.Option())
    """
    assert crashes(raw)
    top = native.empty_mat()
    relu().forward(mat_of(feed(4)), top)
    assert native.layout_of(top).w == 4


def test_an_empty_blob_is_refused() -> None:
    layer = relu()
    for call in (
        lambda: layer.forward(native.empty_mat(), native.empty_mat()),
        lambda: layer.forward_list([native.empty_mat()], [native.empty_mat()]),
        lambda: layer.forward_inplace(native.empty_mat()),
    ):
        with pytest.raises(native.NcnnError, match="is empty"):
            call()


def test_a_list_of_outputs_is_copied_so_only_preallocated_ones_are_written() -> None:
    array = feed(8)
    layer = native.LoadedLayer("Split", native.make_params([]), [], OPTION)
    tops = [native.empty_mat(), native.empty_mat()]
    layer.forward_list([mat_of(array)], tops)
    assert [top.dims for top in tops] == [0, 0]

    add = native.LoadedLayer("BinaryOp", native.make_params([(0, 0)]), [], OPTION)
    blob = Blob.alone(BlobLayout(1, 8, 1, 1, 1, 4, 1))
    add.forward_list([mat_of(array), mat_of(array)], [blob.mat])
    np.testing.assert_array_equal(native.mat_to_array(blob.mat), array + array)


def test_a_loaded_layer_keeps_its_arrays_alive() -> None:
    def load() -> tuple[native.LoadedLayer, Array]:
        weights = feed(64 * 64)
        layer = native.LoadedLayer(
            "InnerProduct",
            native.make_params([(0, 64), (1, 0), (2, weights.size)]),
            [weights.copy()],
            native.make_option(RunOptions(), "in_place"),  # uses the weights where they are
        )
        return layer, weights.reshape(64, 64)

    layer, weights = load()
    others = [np.full(64 * 64, 7, np.float32) for _ in range(20)]  # would take the freed memory
    top, vector = native.empty_mat(), feed(64, seed=1)
    layer.forward(mat_of(vector), top)
    np.testing.assert_allclose(native.mat_to_array(top), weights @ vector, rtol=1e-4, atol=1e-4)
    assert len(others) == 20


def test_parameters_that_are_arrays_are_copied_while_they_live() -> None:
    for count in range(250, 2000, 50):  # larger than the memory numpy keeps for its next array
        params = native.make_params([(0, range(count))])
        assert np.array(params.get(0, ncnn.Mat())).view(np.int32).tolist() == list(range(count))


def test_a_stock_net_crashes_on_borrowed_memory_and_ours_does_not(tmp_path: Path) -> None:
    path = tmp_path / "relu.param"
    write_random(model_of(["Input in 0 1 in", "ReLU relu 1 1 in out"]), path)
    raw = f"""
        net = ncnn.Net()
        net.load_param({str(path)!r}); net.load_model({str(path.with_suffix(".bin"))!r})
        with net.create_extractor() as ex:
            array = np.ones((8, 3, 4), np.float32)
            ex.input("in", ncnn.Mat(array))
            ex.extract("out")
    """
    assert crashes(raw) != native.capabilities().feeds_borrowed_mats
    array = feed(8, 3, 4)
    before = array.copy()
    net = native.StockNet(str(path), str(path.with_suffix(".bin")), RunOptions())
    np.testing.assert_array_equal(net.run({"in": array}, ["out"])["out"], np.maximum(before, 0))
    np.testing.assert_array_equal(array, before)
    net.close()


def test_a_dropped_layer_leaks_without_destroy_pipeline_and_ours_does_not() -> None:
    code = """
        from flexnn_ncnn.runtime.memory.process_memory import resident_bytes
        size = 128
        arrays = [np.zeros(size * size if i % 2 == 0 else size, np.float32) for i in range(8)]
        params = lambda: native.make_params([(0, size), (1, 4), (2, size * size)])
        option = native.make_option(RunOptions())
        def raw():
            from flexnn_ncnn.runtime.native.layers import _Weights
            layer = ncnn.create_layer("MultiHeadAttention")
            layer.load_param(params()); layer.load_model(_Weights(arrays)); layer.create_pipeline(option)
        def ours():
            native.LoadedLayer("MultiHeadAttention", params(), arrays, option)
        for function in (raw, ours):
            for _ in range(5):
                function()
            before = resident_bytes()
            for _ in range(100):
                function()
            print(resident_bytes() - before)
    """
    done = run_child(code)
    leaked, kept = map(int, done.stdout.split())
    assert leaked > 15_000_000, done.stderr
    assert kept < 2_000_000


def test_closing_twice_is_fine() -> None:
    layer = relu()
    layer.close()
    layer.close()


def softmax_over(axis: float) -> Array:
    layer = native.LoadedLayer("Softmax", native.make_params([(0, axis), (1, 1)]), [], OPTION)
    array = feed(2, 3)
    layer.forward_inplace(mat_of(array))
    return array


def test_a_float_where_an_integer_is_read_is_ignored_so_parameters_come_typed() -> None:
    np.testing.assert_allclose(softmax_over(1).sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(softmax_over(1.0).sum(0), 1, rtol=1e-5)  # the default


@pytest.mark.parametrize(("limits", "wanted"), [((-2.0, 2.0), 2.0), ((-2, 2), 3e-45)])
def test_integers_read_as_floats_give_their_bits_so_arrays_come_typed(
    limits: tuple[int | float, ...], wanted: float
) -> None:
    params = native.make_params([(0, 1), (1, 1), (5, 0), (6, 1), (9, 3), (10, limits)])  # clipped
    layer = native.LoadedLayer("Convolution", params, [np.ones(1, np.float32)], OPTION)
    top = native.empty_mat()
    layer.forward(mat_of(np.full((1, 1, 1), 5, np.float32)), top)
    assert native.mat_to_array(top).item() == np.float32(wanted)


def test_array_parameters_may_mix_integers_and_floats() -> None:
    layer = native.LoadedLayer("Slice", native.make_params([(0, (3, -233)), (1, 0)]), [], OPTION)
    blobs = [Blob.alone(BlobLayout(1, width, 1, 1, 1, 4, 1)) for width in (3, 5)]
    layer.forward_list([mat_of(feed(8))], [blob.mat for blob in blobs])
    np.testing.assert_array_equal(np.concatenate([native.mat_to_array(blob.mat) for blob in blobs]), feed(8))


def test_repacking_a_vector_copies_where_ncnn_would_share() -> None:
    if WIDEST < 4:
        pytest.skip("this processor packs nothing")
    array = feed(16)
    source = mat_of(array)
    target = Blob.alone(native.layout_of(source).with_elempack(4))
    raw = ncnn.Mat()
    ncnn.convert_packing(source, raw, 4)
    assert native.data_address(raw) == native.data_address(source)

    address = native.data_address(target.mat)
    native.convert(source, target.mat, OPTION)
    assert native.data_address(target.mat) == address
    np.testing.assert_array_equal(native.mat_to_array(target.mat), array)
    native.repack(source, target.mat)
    assert native.data_address(target.mat) == address


def test_channels_that_begin_at_odd_addresses_are_copied() -> None:
    array = feed(6, 1, 6)
    mat = native.mat_from_array(array)
    assert mat.cstep == 8
    assert ncnn.Mat(array).cstep == 6
    np.testing.assert_array_equal(native.mat_to_array(mat), array)
    for shape in ((6, 1, 8), (6,), (3, 5)):
        even = feed(*shape)
        assert native.data_address(native.mat_from_array(even)) == even.ctypes.data


# Loading


def test_an_unknown_type_is_named() -> None:
    with pytest.raises(native.NcnnError, match="has no layer type 'Nonsense'"):
        native.LoadedLayer("Nonsense", native.make_params([]), [], OPTION)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_weights_of_another_length_are_refused(count: int) -> None:
    params = native.make_params([(0, 4), (1, 1), (5, 0), (6, 16)])
    with pytest.raises(native.NcnnError, match="layer 'conv': ncnn's load_model failed"):
        native.LoadedLayer("Convolution", params, [np.zeros(count, np.float32)], OPTION, "conv")


def test_an_array_too_few_is_refused() -> None:
    params = native.make_params([(0, 4), (1, 1), (5, 1), (6, 16)])
    with pytest.raises(native.NcnnError, match="load_model failed"):
        native.LoadedLayer("Convolution", params, [np.zeros(16, np.float32)], OPTION)


def test_a_layer_knows_what_it_can_do() -> None:
    conv, _ = convolution(4, 4)
    assert (conv.takes_one_blob, conv.works_in_place) == (True, False)
    assert (relu().works_in_place, relu().takes_packing) == (True, True)
    assert not native.LoadedLayer("BinaryOp", native.make_params([]), [], OPTION).takes_one_blob


def test_a_convolution_writes_into_the_output_it_is_given() -> None:
    layer, weights = convolution(3, 5, 1)
    array = feed(3, 4, 6, seed=1)
    blob = Blob.alone(BlobLayout(3, 6, 4, 1, 5, 4, 1))
    address = native.data_address(blob.mat)
    layer.forward(mat_of(array), blob.mat)
    assert native.data_address(blob.mat) == address
    wanted = np.einsum("oi,ihw->ohw", weights[:, :, 0, 0], array)
    np.testing.assert_allclose(native.mat_to_array(blob.mat), wanted, rtol=1e-4, atol=1e-4)


def test_released_weights_are_no_longer_held() -> None:
    layer, _ = convolution(64, 64)
    layer.release_raw()
    assert layer._keep_alive == []


@pytest.mark.parametrize("shape", [(16,), (3, 4), (3, 4, 5), (2, 3, 4, 5)])
def test_stock_answers_in_numpy_shapes(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "abs.param"
    write_random(model_of(["Input in 0 1 in", "AbsVal abs 1 1 in out"]), path)
    net = native.StockNet(str(path), str(path.with_suffix(".bin")), RunOptions())
    np.testing.assert_array_equal(net.run({"in": feed(*shape)}, ["out"])["out"], np.abs(feed(*shape)))
    with pytest.raises(native.NcnnError, match="no input blob 'other'"):
        net.run({"other": feed(*shape)}, ["out"])
    with pytest.raises(native.NcnnError, match="cannot extract blob 'other'"):
        net.run({"in": feed(*shape)}, ["other"])
    net.close()


def test_stock_says_which_file_it_cannot_load(tmp_path: Path) -> None:
    with pytest.raises(native.NcnnError, match=r"cannot load .*no\.param"):
        native.StockNet(str(tmp_path / "no.param"), str(tmp_path / "no.bin"), RunOptions())


# Mats

SHAPES = [(48,), (16, 5), (16, 3, 5), (16, 2, 3, 5)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pack", [1, 4, 8, 16])
def test_a_blob_of_any_shape_and_packing_keeps_its_values(shape: tuple[int, ...], pack: int) -> None:
    array = feed(*shape)
    flat = native.layout_of(mat_of(array))
    assert flat.numpy_shape == shape
    packed, back = Blob.alone(flat.with_elempack(pack)), Blob.alone(flat)
    native.convert(mat_of(array), packed.mat, OPTION)
    assert native.layout_of(packed.mat) == flat.with_elempack(pack)
    np.testing.assert_array_equal(native.mat_to_array(packed.mat), array)
    native.convert(packed.mat, back.mat, OPTION)
    np.testing.assert_array_equal(native.mat_to_array(back.mat), array)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_packed_blob_can_be_packed_otherwise(shape: tuple[int, ...]) -> None:
    flat = native.layout_of(mat_of(feed(*shape)))
    four, eight = Blob.alone(flat.with_elempack(4)), Blob.alone(flat.with_elempack(8))
    native.convert(mat_of(feed(*shape)), four.mat, OPTION)
    native.repack(four.mat, eight.mat)
    np.testing.assert_array_equal(native.mat_to_array(eight.mat), feed(*shape))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bf16", [False, True])
def test_lanes_are_narrowed_and_widened(shape: tuple[int, ...], bf16: bool) -> None:
    option = native.make_option(RunOptions(fp16=not bf16, bf16=bf16))
    array = feed(*shape)
    flat = native.layout_of(mat_of(array))
    narrow, wide = Blob.alone(flat.with_lane_bytes(2).with_elempack(4)), Blob.alone(flat)
    native.convert(mat_of(array), narrow.mat, option)
    np.testing.assert_allclose(native.mat_to_array(narrow.mat, bf16), array, rtol=0.01)
    native.convert(narrow.mat, wide.mat, option)
    np.testing.assert_allclose(native.mat_to_array(wide.mat), array, rtol=0.01)


def test_a_view_must_lie_in_its_memory() -> None:
    layout = BlobLayout(3, 4, 4, 1, 4, 4, 1)
    memory = np.zeros(layout.size_bytes + 64, np.uint8)
    native.blob_view(memory, 0, layout)
    for offset in (-16, 16, 10**6):
        with pytest.raises(native.NcnnError, match="does not fit"):
            native.blob_view(memory, offset, layout)


def test_arrays_that_are_not_side_by_side_are_refused() -> None:
    with pytest.raises(native.NcnnError, match="cannot be viewed"):
        native.mat_from_array(feed(4, 4).T)
    with pytest.raises(native.NcnnError, match="cannot be viewed"):
        native.mat_from_array(feed(1, 1, 1, 1, 1))


@pytest.mark.parametrize("pack", [1, 4, 16])
@pytest.mark.parametrize("shape", [(48,), (48, 5), (48, 3, 5)])
def test_a_part_of_a_blob_shares_its_memory(shape: tuple[int, ...], pack: int) -> None:
    axis = {1: "w", 2: "h", 3: "c"}[len(shape)]
    whole = Blob.alone(native.layout_of(mat_of(feed(*shape))).with_elempack(pack))
    whole.bytes().fill(0)
    target = whole.part(axis, 16, 32)
    view = part_view(whole.layout, axis, 16, 32)
    assert view is not None
    values = Blob.alone(replace(view.layout))
    native.convert(mat_of(feed(16, *shape[1:])), values.mat, OPTION)
    native.copy_blob(values.mat, target.mat)
    found = native.mat_to_array(whole.mat)
    np.testing.assert_array_equal(found[16:32], feed(16, *shape[1:]))
    assert not found[:16].any()
    assert not found[32:].any()


@pytest.mark.parametrize("pack", [1, 4])
def test_a_part_packed_otherwise_is_stored_all_the_same(pack: int) -> None:
    whole = Blob.alone(BlobLayout(1, 24, 1, 1, 1, 4, 1).with_elempack(pack))
    for begin, end in ((0, 16), (16, 24)):
        computed = Blob.alone(BlobLayout(1, end - begin, 1, 1, 1, 4, 1).with_elempack(8))
        native.convert(mat_of(feed(24)[begin:end].copy()), computed.mat, OPTION)
        whole.part("w", begin, end).store(computed.mat)
    np.testing.assert_array_equal(native.mat_to_array(whole.mat), feed(24))


def test_columns_are_copied_into_a_matrix() -> None:
    whole = Blob.alone(BlobLayout(2, 8, 3, 1, 1, 4, 1))
    for begin, end in ((0, 5), (5, 8)):
        target = whole.part("w", begin, end)
        assert target.mat.dims == 0  # the layer takes memory of its own
        target.store(mat_of(feed(3, 8)[:, begin:end].copy()))
    np.testing.assert_array_equal(native.mat_to_array(whole.mat), feed(3, 8))


@pytest.mark.parametrize("pack", [1, 4])
def test_channels_and_rows_are_views(pack: int) -> None:
    array = feed(16, 5, 3)
    blob = Blob.alone(native.layout_of(mat_of(array)).with_elempack(pack))
    native.convert(mat_of(array), blob.mat, OPTION)
    np.testing.assert_array_equal(native.mat_to_array(native.channels_of(blob.mat, 4, 12)), array[4:12])
    np.testing.assert_array_equal(native.mat_to_array(native.rows_of(blob.mat, 1, 4)), array[:, 1:4])
    copy = native.copy_of(native.rows_of(blob.mat, 1, 4))
    blob.bytes().fill(0)
    np.testing.assert_array_equal(native.mat_to_array(copy), array[:, 1:4])
    for begin, end in ((0, 20), (4, 4), (-4, 4)):
        with pytest.raises(native.NcnnError, match="no channels"):
            native.channels_of(blob.mat, begin, end)
        with pytest.raises(native.NcnnError, match="no rows"):
            native.rows_of(blob.mat, begin, end)


def test_padding_surrounds_every_channel() -> None:
    array = feed(4, 3, 5)
    found = native.mat_to_array(native.padded(mat_of(array), 1, 0, 2, 3, 0.5, OPTION))
    np.testing.assert_array_equal(found, np.pad(array, ((0, 0), (1, 0), (2, 3)), constant_values=0.5))


# What layers want

LAYERS = {
    "conv 3": ["Convolution layer 1 1 in out 0=16 1=1 5=0 6=48"],
    "conv 12": ["Convolution layer 1 1 mid out 0=16 1=1 5=0 6=192"],
    "conv 16": ["Convolution layer 1 1 mid out 0=16 1=1 5=0 6=256"],
    "relu": ["ReLU layer 1 1 mid out"],
    "softmax": ["Softmax layer 1 1 mid out 0=0 1=1"],
    "permute": ["Permute layer 1 1 mid out 0=1"],
    "pooling": ["Pooling layer 1 1 mid out 0=0 1=2 2=2"],
    "interp": ["Interp layer 1 1 mid out 0=1 1=2.0 2=2.0"],
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("options", [RunOptions(), RunOptions(packing=False), RunOptions(bf16=True)], ids=str)
def test_a_layer_wants_what_stock_gives_it(name: str, options: RunOptions, tmp_path: Path) -> None:
    """The layout in which a blob reaches a layer shows in that of what it makes."""
    channels = 3 if name == "conv 3" else 12 if name == "conv 12" else 16
    lines = ["Input in 0 1 in"]
    if "mid" in LAYERS[name][0]:
        lines.append(f"Convolution first 1 1 in mid 0={channels} 1=1 5=0 6={3 * channels}")
    path = tmp_path / "m.param"
    write_random(model_of([*lines, *LAYERS[name]]), path)
    net = ncnn.Net()
    net.opt = native.make_option(options)
    assert net.load_param(str(path)) == net.load_model(str(path.with_suffix(".bin"))) == 0
    layouts = {}
    for blob in ("in", "mid", "out")[:: 2 if len(lines) == 1 else 1]:
        with net.create_extractor() as extractor:
            extractor.set_light_mode(False)
            extractor.input("in", ncnn.Mat(feed(3, 4, 6)).clone())
            _, mat = extractor.extract(blob, 1)
            layouts[blob] = native.layout_of(mat)
            del mat
    net.clear()

    line = LAYERS[name][0].split()
    layer_model = model_of(["Input x 0 1 x", " ".join([line[0], "l", "1", "1", "x", "y", *line[6:]])])
    layer = layer_model.layers[1]
    arrays = [feed(layer.int_param(6))] if layer.type == "Convolution" else []
    params = [(k, v.value) for k, v in layer.params.items() if not isinstance(v.value, str)]
    loaded = native.LoadedLayer(layer.type, native.make_params(params), arrays, native.make_option(options))
    source = layouts["mid" if "mid" in layouts else "in"]
    wanted = native.wanted_layout(source, loaded, options, "default")
    blob = Blob.alone(wanted)
    blob.bytes().fill(0)
    top = native.empty_mat()
    if loaded.works_in_place:
        loaded.forward_inplace(blob.mat)
        assert wanted == layouts["out"]
    else:
        loaded.forward(blob.mat, top)
        assert native.layout_of(top) == layouts["out"]


def test_a_kernel_without_packing_wants_plain_blobs() -> None:
    layer, _ = convolution(16, 16)
    packed = BlobLayout(3, 4, 4, 1, 16, 4, 1).with_elempack(WIDEST)
    assert native.wanted_layout(packed, layer, RunOptions(), "in_place").elempack == 1
    assert native.wanted_layout(packed, layer, RunOptions(), "default").elempack == WIDEST


def test_lanes_are_what_stock_packs_by(tmp_path: Path) -> None:
    path = tmp_path / "m.param"
    write_random(model_of(["Input in 0 1 in", "Convolution c 1 1 in out 0=16 1=1 5=0 6=48"]), path)
    net = ncnn.Net()
    net.opt = OPTION
    net.load_param(str(path))
    net.load_model(str(path.with_suffix(".bin")))
    with net.create_extractor() as extractor:
        extractor.input("in", ncnn.Mat(feed(3, 4, 4)).clone())
        _, mat = extractor.extract("out", 1)
        assert mat.elempack == WIDEST
        del mat
    net.clear()
