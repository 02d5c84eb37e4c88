from __future__ import annotations

import struct

import pytest

from param_tools.errors import ModelFormatError
from param_tools.graph import Layer, Model, ParamValue
from param_tools.param_binary import TYPE_NAMES, format_param_binary, is_binary, parse_param_binary


def one(layer_type: str, params: dict[int, object]) -> Model:
    values = {key: ParamValue(value) for key, value in params.items()}  # type: ignore[arg-type]
    return Model((Layer("Input", "in", (), ("a",)), Layer(layer_type, "probe", ("a",), ("b",), values)))


def read_back(layer_type: str, params: dict[int, object]) -> dict[int, object]:
    layer = parse_param_binary(format_param_binary(one(layer_type, params))).layers[1]
    return {key: param.value for key, param in layer.params.items()}


@pytest.mark.parametrize("text", ["", "a", "ab", "abc", "abcd", "abcde", "0w,0h", "ü"])
def test_strings_of_every_length_are_padded(text: str) -> None:
    params = {6: text, 12: 233}
    data = format_param_binary(one("Reshape", params))
    assert len(data) % 4 == 0
    assert read_back("Reshape", params) == params


def test_numbers_are_stored_as_the_kind_the_layer_wants() -> None:
    data = format_param_binary(one("ReLU", {0: 1}))
    assert data.endswith(struct.pack("<ifi", 0, 1.0, -233)), "ncnn takes the bits of a float parameter as they are"
    assert read_back("ReLU", {0: 1}) == {0: 1.0}
    assert read_back("InnerProduct", {2: 38_597_376}) == {2: 38_597_376}, "an int although its bits are a float's"
    assert read_back("Slice", {0: (3, -233), 1: -1}) == {0: (3, -233), 1: -1}
    assert read_back("Convolution", {10: (0.5, 0.0)}) == {10: (0.5, 0.0)}


def test_numbers_of_custom_layers_are_told_by_their_bits() -> None:
    params = {0: 7, 1: 0.5, 2: -3, 3: (1, 2), 4: (0.25, -1.0)}
    assert read_back("MyLayer", params) == params


def test_custom_types_are_numbered_as_they_come() -> None:
    layers = [Layer("Input", "in", (), ("0",))]
    layers += [Layer(kind, "x", (str(i),), (str(i + 1),)) for i, kind in enumerate(("Mine", "Yours", "Mine"))]
    read = parse_param_binary(format_param_binary(Model(tuple(layers))))
    assert [layer.type for layer in read.layers[1:]] == ["CustomLayer0", "CustomLayer1", "CustomLayer0"]
    assert format_param_binary(read) == format_param_binary(Model(tuple(layers)))


def test_blob_numbers_are_kept() -> None:
    layers = (Layer("Input", "in", (), ("1",)), Layer("ReLU", "r", ("1",), ("0",)))
    read = parse_param_binary(format_param_binary(Model(layers)))
    assert [layer.outputs for layer in read.layers] == [("1",), ("0",)]


def test_types_that_the_wheel_only_numbers_can_be_named() -> None:
    data = format_param_binary(one("ReLU", {}))
    argmax = data.replace(struct.pack("<i", TYPE_NAMES.index("ReLU")), struct.pack("<i", TYPE_NAMES.index("ArgMax")))
    assert parse_param_binary(argmax).layers[1].type == "ArgMax"
    assert format_param_binary(parse_param_binary(argmax)) == argmax


def test_too_long_a_string_is_refused() -> None:
    with pytest.raises(ModelFormatError, match="parameter 6 is a string of 256 bytes"):
        format_param_binary(one("Reshape", {6: "x" * 256}))


def test_formats_are_told_apart_by_their_beginning() -> None:
    assert is_binary(format_param_binary(one("ReLU", {})))
    assert not is_binary(b"7767517\n")
