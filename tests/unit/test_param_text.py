from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from param_tools.errors import ModelFormatError
from param_tools.graph import Layer, Model, ParamValue
from param_tools.param_text import format_param, parse_param

ROOT = Path(__file__).parents[2]
SMALL = """7767517
3 3
Input                    in0                      0 1 in0 0=224 1=224 2=3
Convolution              conv                     1 1 in0 1 0=64 1=3 5=1 6=1728 9=2 -23310=1,2.0e-01
Reshape                  r                        1 1 1 out0 6="0w, -1"
"""


def test_layers_have_what_the_lines_say() -> None:
    model = parse_param(SMALL)
    conv = model.layers[1]
    assert (conv.type, conv.name, conv.inputs, conv.outputs, conv.line) == ("Convolution", "conv", ("in0",), ("1",), 4)
    assert {key: param.value for key, param in conv.params.items()} == {0: 64, 1: 3, 5: 1, 6: 1728, 9: 2, 10: (0.2,)}
    assert conv.params[10].raw == "-23310=1,2.0e-01"
    assert model.layers[2].params[6] == ParamValue("0w, -1")


@pytest.mark.parametrize("path", sorted((ROOT / "models").glob("*.param")), ids=lambda path: path.stem)
def test_untouched_files_are_written_byte_for_byte(path: Path) -> None:
    assert format_param(parse_param(path.read_bytes())).encode() == path.read_bytes()


@pytest.mark.parametrize("padding", ["", "  ", "\t"])
def test_untouched_lines_keep_their_spacing(padding: str) -> None:
    text = f"7767517\n2 2\n{padding}Input  in 0 1   a  0=3{padding}\nReLU r 1 1 a b\n"
    assert format_param(parse_param(text)) == text


def test_bytes_that_are_no_utf8_survive() -> None:
    data = b"7767517\n2 2\nInput \xff\xfe 0 1 \x80\nReLU r 1 1 \x80 \xe9\n"
    assert format_param(parse_param(data)).encode("utf-8", "surrogateescape") == data


def test_only_the_changed_line_changes() -> None:
    model = parse_param(SMALL)
    changed = Model((*model.layers[:1], model.layers[1].with_params({0: 32, 18: 0.1}), *model.layers[2:]))
    before, after = SMALL.splitlines(), format_param(changed).splitlines()
    assert [i for i, (old, new) in enumerate(zip(before, after, strict=True)) if old != new] == [3]
    assert after[3].endswith(" in0 1 0=32 1=3 5=1 6=1728 9=2 -23310=1,2.0e-01 18=1.00000000e-01")


def test_stale_raw_line_is_not_repeated() -> None:
    model = parse_param(SMALL)
    renamed = Model((*model.layers[:2], replace(model.layers[2], name="other"), *model.layers[3:]))
    assert parse_param(format_param(renamed)).layers[2].name == "other"


def test_counts_are_written_anew() -> None:
    assert format_param(Model(parse_param(SMALL).layers[:2])).splitlines()[1] == "2 2"


@pytest.mark.parametrize("value", [0, -1, 2**31 - 1, 0.1, -1e-30, 3.4e38, (1, -2), (0.5, 1e-8), "a b,c", ""])
def test_new_values_read_back(value: object) -> None:
    model = Model((Layer("Any", "n", (), ("a",), {7: ParamValue(value)}),))  # type: ignore[arg-type]
    read = parse_param(format_param(model)).layers[0].params[7].value
    assert read == pytest.approx(value, rel=1e-8) if isinstance(value, float) else read == value


@pytest.mark.parametrize(
    "value", [2**31, float("inf"), float("nan"), 3.5e38, (1.0, float("nan")), 'a"b', "a\nb", "x" * 254]
)
def test_values_the_format_cannot_hold_are_refused(value: object) -> None:
    model = Model((Layer("Any", "n", (), ("a",), {7: ParamValue(value)}),))  # type: ignore[arg-type]
    with pytest.raises(ModelFormatError, match=r"layer 'n': a \.param cannot hold .* as parameter 7"):
        format_param(model)


@pytest.mark.parametrize("name", ["", "a b", "a\tb", "x" * 256, "a\0"])
def test_names_the_format_cannot_hold_are_refused(name: str) -> None:
    with pytest.raises(ModelFormatError, match="cannot hold the name"):
        format_param(Model((Layer("Input", "n", (), (name,)),)))


INPUT = "Input in 0 1 a\n"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "empty"),
        ("\n\nhello\n", 3, "begins with 'hello', not 7767517"),
        ("7767517\n", 1, "counts are missing"),
        ("7767517\n2\n", 2, "counts are missing"),
        ("7767517\n2 x\n", 2, "not a number of layers and of blobs: '2 x'"),
        ("7767517\n-1 2\n", 2, "not a number"),
        ("7767517\nnan 2\n", 2, "not a number"),
        ("7767517\n0 0\n", 2, "not a number"),
        ("7767517\n99999999999999999999 1\n", 2, "not a number"),
        (f"7767517\n3 1\n{INPUT}", 2, "says 3 layers and 1 blobs but has 1 and 1"),
        (f"7767517\n1 5\n{INPUT}", 2, "says 1 layers and 5 blobs but has 1 and 1"),
        ("7767517\n1 1\nInput in 0 nan a\n", 3, "expected a number of blobs, found 'nan'"),
        ("7767517\n1 1\nInput in -1 1 a\n", 3, "expected a number of blobs, found '-1'"),
        ("7767517\n1 1\nInput in 0 999999999 a\n", 3, "ends inside the layer that begins here"),
        ("7767517\n2 2\nInput in 0 2 a\nReLU r 1 1 a b\n", 4, "in the layer that begins in line 3"),
        (f"7767517\n1 1\nInput {'n' * 256} 0 1 a\n", 3, "a name of 256 bytes"),
        ("7767517\n1 1\nInput in 0 1 a 0\n", 3, "expected id=value, found '0'"),
        ("7767517\n1 1\nInput in 0 1 a 32=0\n", 3, r"not in 0\.\.31"),
        ("7767517\n1 1\nInput in 0 1 a -1=0\n", 3, r"not in 0\.\.31"),
        ("7767517\n1 1\nInput in 0 1 a -23332=1,0\n", 3, r"not in 0\.\.31"),
        ("7767517\n1 1\nInput in 0 1 a 0=1 0=1\n", 3, "parameter 0 is given twice"),
        ("7767517\n1 1\nInput in 0 1 a 0=1 -23300=1,1\n", 3, "parameter 0 is given twice"),
        ("7767517\n1 1\nInput in 0 1 a -23300=999999999,1\n", 3, "not the length it states"),
        ("7767517\n1 1\nInput in 0 1 a -23300=-1\n", 3, "not the length it states"),
        ("7767517\n1 1\nInput in 0 1 a 0=2147483648\n", 3, "not a 32-bit integer"),
        ("7767517\n1 1\nInput in 0 1 a 0=1e39\n", 3, "not a 32-bit float"),
        ("7767517\n1 1\nInput in 0 1 a 0=[1]\n", 3, "not a number"),
        ("7767517\n1 1\nInput in 0 1 a 0=1,(2)\n", 3, "not a number"),
        ('7767517\n1 1\nInput in 0 1 a 0="x\n', 3, "no closing quote"),
        ("7767517\n1 1\nInput in 0 1 a 31=0.5\n", 3, "feature mask"),
        ("7767517\n1 1\nInput in 0 1 a 30=1\n", 3, "shape hints"),
        ("7767517\n1 1\nInput in 0 1 a 30=1,2,3\n", 3, "no shape for each of 1 outputs"),
        (f"7767517\n2 2\n{INPUT}ReLU r 1 1 x b\n", 4, "reads blob 'x', which no layer produces"),
        (f"7767517\n2 2\n{INPUT}Noop n 1 1 a a\n", 4, "produces blob 'a' a second time"),
        (f"7767517\n3 3\n{INPUT}ReLU r 1 1 c b\nReLU s 1 1 b c\n", 4, "form a cycle"),
        (f"7767517\n3 3\n{INPUT}ReLU r 1 1 c b\nReLU s 1 1 a c\n", 4, "before layer 's' produces it"),
        (f"7767517\n3 3\n{INPUT}ReLU r 1 1 a b\nReLU s 1 1 a c\n", 5, "which layer 'r' reads too: .* Split"),
        (f"7767517\n2 2\n{INPUT}ReLU r 1 2 a b c\n", 4, "1 inputs and 2 outputs, not one of each"),
        ("7767517\n1 1\nInput in 0 1 a\0\n", 3, "NUL"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(ModelFormatError, match=words) as caught:
        parse_param(text, path="some/model.param")
    assert str(caught.value).startswith(f"some/model.param:{line}: ")
    assert "\n" not in str(caught.value)


def test_binary_content_is_recognised() -> None:
    with pytest.raises(ModelFormatError, match="binary"):
        parse_param((7767517).to_bytes(4, "little") + b"\1\0\0\0")
