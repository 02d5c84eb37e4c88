from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from param_tools.encoding import Encoding, narrow
from param_tools.errors import ModelFormatError, UnsupportedLayerError
from param_tools.graph import Model
from param_tools.model_io import open_model, write_model
from param_tools.param_text import parse_param
from param_tools.weights import StoredArray, WeightArray, WeightFile, index_weights

CONV = "Convolution c 1 1 a b 0=3 1=1 5=1 6=6"
NORM = "LayerNorm n 1 1 b c 0=3"
FP16_TAG, BF16_TAG, INT8_TAG, RAW_TAG = 0x01306B47, 0x01348B83, 0x000D4B38, 0x0002C056


def model(*lines: str) -> Model:
    blobs = sum(int(line.split()[3]) for line in lines)
    return parse_param("\n".join(("7767517", f"{len(lines) + 1} {blobs + 1}", "Input in 0 1 a", *lines)) + "\n")


def index(net: Model, data: bytes) -> tuple[tuple[WeightArray, ...], ...]:
    def read_tag(offset: int) -> int:
        assert 0 <= offset <= len(data) - 4, "a tag outside the file is asked for"
        return int.from_bytes(data[offset : offset + 4], "little")

    return index_weights(net, len(data), read_tag, "m.bin")


def tagged(tag: int, payload: bytes) -> bytes:
    return tag.to_bytes(4, "little") + payload + bytes(-len(payload) % 4)


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def opened(folder: Path, net: Sequence[str], data: bytes) -> WeightFile:
    (folder / "m.bin").write_bytes(data)
    return WeightFile.open(model(*net), folder / "m.bin")


def test_index_gives_offsets_of_payloads_in_file_order() -> None:
    data = tagged(0, floats(*range(6))) + floats(7, 8, 9) + floats(1, 1, 1) + floats(0, 0, 0)
    assert index(model(CONV, NORM), data) == (
        (),
        (
            WeightArray(1, "weight", (3, 2, 1, 1), Encoding.FP32, 4, 24),
            WeightArray(1, "bias", (3,), Encoding.FP32_UNTAGGED, 28, 12),
        ),
        (
            WeightArray(2, "gamma", (3,), Encoding.FP32_UNTAGGED, 40, 12),
            WeightArray(2, "beta", (3,), Encoding.FP32_UNTAGGED, 52, 12),
        ),
    )


@pytest.mark.parametrize(
    ("tag", "payload", "encoding", "stored"),
    [
        (0, floats(*range(6)), Encoding.FP32, 24),
        (RAW_TAG, floats(*range(6)), Encoding.FP32_RAW, 24),
        (FP16_TAG, np.arange(6, dtype="<f2").tobytes(), Encoding.FP16, 12),
        (BF16_TAG, bytes(12), Encoding.BF16, 12),
        (1, bytes(1024 + 6), Encoding.TABLE, 1030),
        (0xFFFFFFFF, bytes(1024 + 6), Encoding.TABLE, 1030),
    ],
)
def test_tags(tag: int, payload: bytes, encoding: Encoding, stored: int) -> None:
    (_, (weight, bias)) = index(model(CONV), tagged(tag, payload) + floats(1, 2, 3))
    assert (weight.encoding, weight.stored_bytes, weight.begin_bytes) == (encoding, stored, 0)
    assert weight.end_bytes == bias.offset_bytes == 4 + (stored + 3) // 4 * 4


def test_int8_needs_a_quantised_layer() -> None:
    data = tagged(INT8_TAG, bytes(6)) + floats(1, 2, 3) + floats(1, 1, 1) + floats(1)
    (_, arrays) = index(model(CONV + " 8=2"), data)
    assert [array.name for array in arrays] == ["weight", "bias", "weight_scales", "bottom_scale"]
    with pytest.raises(ModelFormatError, match=r"m\.bin at byte 0: 'weight' of layer 'c' is int8"):
        index(model(CONV), data)


@pytest.mark.parametrize("cut", [1, 3, 4, 12, 20, 39, 40])
def test_truncated_file_is_refused_wherever_it_ends(cut: int) -> None:
    data = tagged(0, floats(*range(6))) + floats(7, 8, 9)
    with pytest.raises(ModelFormatError, match=r"ends inside '(weight|bias)' of layer 'c', which reaches to byte \d+"):
        index(model(CONV), data[:-cut])


@pytest.mark.parametrize("extra", [1, 4, 1000])
def test_trailing_bytes_are_refused(extra: int) -> None:
    data = tagged(0, floats(*range(6))) + floats(7, 8, 9)
    with pytest.raises(ModelFormatError, match=f"m.bin at byte 40: {extra} bytes follow the last weight"):
        index(model(CONV), data + bytes(extra))


def test_unknown_layer_without_weights_is_followed() -> None:
    data = tagged(0, floats(*range(6))) + floats(7, 8, 9)
    assert [len(arrays) for arrays in index(model("Swizzle x 1 1 a z", CONV.replace(" a b", " z b")), data)] == [
        0,
        0,
        2,
    ]


def test_unknown_layer_with_weights_is_named() -> None:
    data = floats(1, 2, 3) + tagged(0, floats(*range(6))) + floats(7, 8, 9)
    with pytest.raises(
        UnsupportedLayerError, match=r"layer 'x' \(line 4\) has the unknown type 'Swizzle'.*ends inside"
    ):
        index(model("Swizzle x 1 1 a z", CONV.replace(" a b", " z b")), data)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("Convolution c 1 1 a b 0=3 1=1 6=7", r"impossible shape .* for 7 elements"),
        ("Convolution c 1 1 a b 0=0 1=1 6=6", "impossible shape"),
        ("Convolution c 1 1 a b 0=-3 1=1 6=6", "impossible shape"),
        ("Convolution c 1 1 a b 0=3 1=0 6=6", "impossible shape"),
        ("Convolution c 1 1 a b 0=3 1=1", "impossible shape"),
        ("Convolution c 1 1 a b 0=3 1=1 6=-6", "impossible shape"),
        ("Convolution c 1 1 a b 0=3.0 1=1 6=6", "should be an integer"),
        ("LayerNorm n 1 1 a b 0=0", "impossible shape"),
        ("Gemm g 1 1 a b 5=1 8=2147483647 9=2147483647", "impossible shape"),
        ("MemoryData m 0 1 b 0=2000000000 1=2000000000 2=2000000000", "impossible shape"),
        ("MemoryData m 0 1 b 0=4 21=7", "no load type 7"),
        ("MultiHeadAttention m 1 1 a b 0=0 2=4", "impossible shape"),
        ("MultiHeadAttention m 1 1 a b 0=2 2=4 18=2147483647", "no load type"),
        ("LSTM l 1 1 a b 0=0 1=0", "impossible shape"),
    ],
)
def test_parameters_that_make_no_tensor_are_refused(line: str, words: str) -> None:
    with pytest.raises(ModelFormatError, match=words) as caught:
        index(model(line), bytes(64))
    assert caught.value.line == 4


def test_views_are_lazy_readonly_and_of_the_stored_type(tmp_path: Path) -> None:
    half = np.arange(6, dtype="<f2")
    with opened(tmp_path, [CONV], tagged(FP16_TAG, half.tobytes()) + floats(7, 8, 9)) as weights:
        assert weights._map is None
        weight, bias = weights.arrays[1]
        view = weights.view(weight)
        assert (view.dtype, view.shape, view.flags.writeable) == (np.float16, (3, 2, 1, 1), False)
        np.testing.assert_array_equal(view.ravel(), half)
        assert weights.read_float32(weight).dtype == np.float32
        plain = weights.read_float32(bias)
        assert np.shares_memory(plain, weights.view(bias)), "fp32 is not copied"
        np.testing.assert_array_equal(plain, [7, 8, 9])


def test_views_outlive_the_file(tmp_path: Path) -> None:
    weights = opened(tmp_path, [NORM.replace(" b c", " a b")], floats(1, 2, 3, 4, 5, 6))
    view = weights.view(weights.arrays[1][0])
    weights.close()
    weights.close()
    np.testing.assert_array_equal(view, [1, 2, 3])
    with pytest.raises(ModelFormatError, match="weights are missing"):
        weights.view(weights.arrays[1][0])


def test_released_pages_are_read_again(tmp_path: Path) -> None:
    with opened(tmp_path, [NORM.replace(" b c", " a b")], floats(1, 2, 3, 4, 5, 6)) as weights:
        weights.release_pages()
        view = weights.view(weights.arrays[1][1])
        weights.release_pages()
        np.testing.assert_array_equal(view, [4, 5, 6])


def test_a_file_that_shrinks_while_open_is_noticed(tmp_path: Path) -> None:
    with opened(tmp_path, [NORM.replace(" b c", " a b")], floats(1, 2, 3, 4, 5, 6)) as weights:
        weights.path.write_bytes(b"")
        with pytest.raises(ModelFormatError, match="changed its length"):
            weights.view(weights.arrays[1][0])


def test_widening(tmp_path: Path) -> None:
    table, picks = np.linspace(-1, 1, 256, dtype="<f4"), np.array([0, 255, 3, 3, 7, 128], np.uint8)
    with opened(tmp_path, [CONV], tagged(0x0D, table.tobytes() + picks.tobytes()) + floats(1, 2, 3)) as weights:
        weight = weights.arrays[1][0]
        np.testing.assert_array_equal(weights.read_float32(weight).ravel(), table[picks])
        assert weights.stored(weight).tag == 0x0D
        assert weights.view(weight).dtype == np.uint8
    values = np.array([1, -2.5, 0, 3e38, 1e-30, 7], "<f4")
    with opened(
        tmp_path, [CONV], tagged(BF16_TAG, narrow(values, Encoding.BF16).tobytes()) + floats(1, 2, 3)
    ) as weights:
        np.testing.assert_allclose(weights.read_float32(weights.arrays[1][0]).ravel(), values, rtol=2**-8)


def test_bf16_rounds_to_nearest_even() -> None:
    ties = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0xFF7FFFFF, 0x7FC00001], "<u4").view("<f4")
    assert [hex(bits) for bits in narrow(ties, Encoding.BF16)] == [
        "0x3f80",
        "0x3f82",
        "0x3f81",
        "0x3f80",
        "0xff80",
        "0x7fc0",
    ]


def test_fp16_refuses_what_does_not_fit() -> None:
    with pytest.raises(ModelFormatError, match="magnitude 70000 does not fit fp16; keep this array fp32"):
        narrow(np.array([1, -70000], np.float32), Encoding.FP16)
    assert np.isinf(narrow(np.array([np.inf], np.float32), Encoding.FP16)).all(), "infinity was there before"


@pytest.mark.parametrize("encoding", [Encoding.INT8, Encoding.INT8_UNTAGGED, Encoding.TABLE])
def test_floats_are_not_quantised_in_passing(encoding: Encoding) -> None:
    with pytest.raises(ValueError, match="cannot be stored"):
        narrow(np.zeros(3, np.float32), encoding)


def stored(count: int, encoding: Encoding) -> StoredArray:
    return StoredArray(np.zeros(count, encoding.dtype), encoding)


@pytest.mark.parametrize(
    "arrays",
    [
        [],
        [stored(6, Encoding.FP32)],
        [stored(5, Encoding.FP32), stored(3, Encoding.FP32_UNTAGGED)],
        [stored(6, Encoding.FP32_UNTAGGED), stored(3, Encoding.FP32_UNTAGGED)],
        [stored(6, Encoding.FP32), stored(3, Encoding.FP32)],
        [stored(6, Encoding.INT8), stored(3, Encoding.FP32_UNTAGGED)],
        [stored(6, Encoding.TABLE), stored(3, Encoding.FP32_UNTAGGED)],
        [stored(6, Encoding.FP32), stored(3, Encoding.FP32_UNTAGGED), stored(1, Encoding.FP32)],
    ],
)
def test_arrays_that_are_not_the_models_leave_no_files(arrays: list[StoredArray], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs|more arrays"):
        write_model(model(CONV), arrays, tmp_path / "m.param", tmp_path / "m.bin")
    assert list(tmp_path.iterdir()) == []


def test_predicted_size_is_the_written_size(tmp_path: Path) -> None:
    net = model(CONV, NORM)
    for encoding in (Encoding.FP32, Encoding.FP16, Encoding.BF16, Encoding.FP32_RAW):
        arrays = [stored(6, encoding), *(stored(3, Encoding.FP32_UNTAGGED) for _ in range(3))]
        write_model(net, arrays, tmp_path / "m.param", tmp_path / "m.bin")
        with open_model(tmp_path / "m.param") as again:
            assert again.weights.size_bytes == 4 + encoding.payload_bytes(6) + 36
            assert again.weights.arrays[1][0].encoding is encoding


def test_large_arrays_are_written_in_chunks_of_any_layout(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((3, 700_001), np.float32)
    net = model("InnerProduct f 1 1 a b 0=700001 2=2100003")
    chunks: list[None] = []
    for layout in (values.T, np.asfortranarray(values.T), values.T.copy()):
        chunks.clear()
        array = StoredArray(layout, Encoding.FP32)
        write_model(net, [array], tmp_path / "m.param", tmp_path / "m.bin", after_chunk=lambda: chunks.append(None))
        assert len(chunks) > 1
        with open_model(tmp_path / "m.param") as again:
            np.testing.assert_array_equal(again.weights.view(again.weights.arrays[1][0]), values.T)
