"""Byte-exact files: what the formats are, written out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from param_tools.encoding import Encoding
from param_tools.graph import Layer, Model, ParamValue
from param_tools.model_io import open_model, write_model
from param_tools.param_binary import format_param_binary, parse_param_binary
from param_tools.param_text import format_param, parse_param
from param_tools.weights import StoredArray

MODEL = Model(
    (
        Layer("Input", "in", (), ("a",), {0: ParamValue(2)}),
        Layer("PReLU", "slope", ("a",), ("b",), {0: ParamValue(2)}),
        Layer(
            "InnerProduct",
            "fc",
            ("b",),
            ("c",),
            {0: ParamValue(3), 1: ParamValue(1), 2: ParamValue(6), 9: ParamValue(2), 10: ParamValue((0.1,))},
        ),
        Layer("Reshape", "r", ("c",), ("out",), {6: ParamValue("0w,1")}),
    )
)
TEXT = """7767517
4 4
Input                    in                       0 1 a 0=2
PReLU                    slope                    1 1 a b 0=2
InnerProduct             fc                       1 1 b c 0=3 1=1 2=6 9=2 -23310=1,1.00000000e-01
Reshape                  r                        1 1 c out 6="0w,1"
"""
BINARY = bytes.fromhex(
    "dd857600 04000000 04000000"
    # Input, no input, output 0; parameter 0 is 2; end
    "10000000 00000000 01000000 00000000  00000000 02000000  17ffffff"
    # PReLU, 0 -> 1
    "17000000 01000000 01000000 00000000 01000000  00000000 02000000  17ffffff"
    # InnerProduct, 1 -> 2; parameters 0, 1, 2, 9 and the array 10 of one float
    "0f000000 01000000 01000000 01000000 02000000  00000000 03000000  01000000 01000000  02000000 06000000"
    "09000000 02000000  f2a4ffff 01000000 cdcccc3d  17ffffff"
    # Reshape, 2 -> 3; string 6 of 4 bytes
    "1b000000 01000000 01000000 02000000 03000000  92a4ffff 04000000 30772c31  17ffffff"
)
WEIGHTS = [
    StoredArray(np.array([0.5, -1], np.float32), Encoding.FP32_UNTAGGED),
    StoredArray(np.array([[1, 2], [3, 4], [5, 6]], np.float32), Encoding.FP16),
    StoredArray(np.array([0, 1, -2], np.float32), Encoding.FP32_UNTAGGED),
]
BIN = bytes.fromhex(
    "0000003f 000080bf"  # PReLU's slopes: plain
    "476b3001 003c 0040 0042 0044 0045 0046"  # fc's weights: tag, six halves
    "00000000 0000803f 000000c0"  # fc's bias: plain
)


def test_text() -> None:
    assert format_param(MODEL) == TEXT
    assert parse_param(TEXT) == MODEL


def test_binary() -> None:
    assert format_param_binary(MODEL) == BINARY
    read = parse_param_binary(BINARY)
    assert [layer.type for layer in read.layers] == [layer.type for layer in MODEL.layers]
    assert [layer.params for layer in read.layers[:2]] == [layer.params for layer in MODEL.layers[:2]]
    assert read.layers[3].params == MODEL.layers[3].params
    assert read.layers[2].inputs == ("1",)
    assert format_param_binary(read) == BINARY


def test_weights(tmp_path: Path) -> None:
    write_model(MODEL, WEIGHTS, tmp_path / "m.param", tmp_path / "m.bin")
    assert (tmp_path / "m.param").read_bytes() == TEXT.encode()
    assert (tmp_path / "m.bin").read_bytes() == BIN
    with open_model(tmp_path / "m.param") as model:
        places = [
            (a.name, a.begin_bytes, a.offset_bytes, a.end_bytes) for arrays in model.weights.arrays for a in arrays
        ]
        assert places == [("slope", 0, 0, 8), ("weight", 8, 12, 24), ("bias", 24, 24, 36)]


def test_every_encoding(tmp_path: Path) -> None:
    """Three elements each, so that the payloads of one and two bytes are padded."""
    table = np.arange(256, dtype=np.float32)
    expected = {
        Encoding.FP32: "00000000 0000803f 00000040 00004040",
        Encoding.FP32_RAW: "56c00200 0000803f 00000040 00004040",
        Encoding.FP16: "476b3001 003c 0040 0042 0000",
        Encoding.BF16: "838b3401 803f 0040 4040 0000",
        Encoding.INT8: "384b0d00 01 02 03 00",
        Encoding.TABLE: "00010000" + table.tobytes().hex() + "01 02 03 00",
    }
    param = "7767517\n1 1\nMemoryData m 0 1 a 0=3 21=0\n"
    for encoding, golden in expected.items():
        floats = encoding.dtype.kind == "f" or encoding is Encoding.BF16
        values = np.array([1, 2, 3], np.float32 if floats else encoding.dtype)
        array = StoredArray(values, encoding, table if encoding is Encoding.TABLE else None)
        write_model(parse_param(param), [array], tmp_path / "m.param", tmp_path / "m.bin")
        assert (tmp_path / "m.bin").read_bytes() == bytes.fromhex(golden), encoding
