"""Our .param reader against the installed ncnn's, on well-formed, odd and broken text."""

from __future__ import annotations

import struct
from typing import Any

import ncnn
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from param_tools.errors import ModelFormatError
from param_tools.graph import Layer, Model, ParamValue
from param_tools.param_text import format_param, parse_param
from tests.examples import examples

HEAD = "7767517\n2 2\n"
INPUT, RELU = "Input in 0 1 a\n", "ReLU r 1 1 a b\n"
_STRING, _ARRAYS, _INT, _FLOAT = 7, (4, 5, 6), 2, 3  # ncnn's ParamDict.type


class _Probe(ncnn.Layer):
    """A custom layer that keeps the parameters ncnn parsed for it."""

    seen: dict[int, Any] | None = None

    def load_param(self, params: ncnn.ParamDict) -> int:
        _Probe.seen = {param_id: _value(params, param_id) for param_id in range(30) if params.type(param_id)}
        return 0


def _value(params: ncnn.ParamDict, param_id: int) -> Any:
    kind = params.type(param_id)
    if kind in _ARRAYS:
        return np.array(params.get(param_id, ncnn.Mat())).view(np.int32).tolist()
    if kind == _FLOAT:
        return struct.pack("<f", params.get(param_id, 0.5))
    return params.get(param_id, 0) if kind == _INT else "string"


_kept: list[_Probe] = []


def ncnn_parses(text: str) -> dict[int, Any] | None:
    """The parameters of the text's Probe layer as ncnn reads them; None when it refuses the text."""
    net = ncnn.Net()
    net.register_custom_layer("Probe", lambda: _kept.append(_Probe()) or _kept[-1], lambda layer: None)
    _Probe.seen = {}
    status = net.load_param_mem(text)
    return _Probe.seen if status == 0 else None


def we_parse(text: str) -> Model | None:
    try:
        return parse_param(text)
    except ModelFormatError:
        return None


BOTH_ACCEPT = {
    "blank lines": f"7767517\n\n2 2\n\n{INPUT}\n\n{RELU}",
    "everything before the parameters may span lines": f"{HEAD}Input\nin 0 1\na\n{RELU}",
    "header in one line": f"7767517 2 2\n{INPUT}{RELU}",
    "header and first layer in one line": f"7767517 2 2 {INPUT}{RELU}",
    "signs": f"+7767517\n+2 +2\nInput in +0 +1 a +0=+3\n{RELU}",
    "leading zeros": f"7767517\n02 02\nInput in 00 01 a 00=03\n{RELU}",
    "carriage returns": (HEAD + INPUT + RELU).replace("\n", "\r\n"),
    "carriage returns alone": (HEAD + INPUT + RELU).replace("\n", "\r"),
    "no newline at the end": HEAD + INPUT + RELU.strip(),
    "tabs": f"{HEAD}Input\tin\t0\t1\ta\t0=3\t1=4\n{RELU}",
    "comment after the last layer": f"{HEAD}{INPUT}{RELU}# the end\n",
    "any blob names": f"{HEAD}Input in 0 1 0=3\nReLU # 1 1 0=3 \x1cü\n",
    "names of 255 bytes": f"{HEAD}Input {'n' * 255} 0 1 a\n{RELU}",
    "one blob read twice by a layer": f"{HEAD}{INPUT}BinaryOp r 2 1 a a b\n",
    "a layer without outputs": f"7767517\n2 1\n{INPUT}Noop n 1 0 a\n",
}
BOTH_REFUSE = {
    "empty": "",
    "no magic": f"2 2\n{INPUT}{RELU}",
    "float magic": f"7767517.0\n2 2\n{INPUT}{RELU}",
    "byte order mark": f"\ufeff{HEAD}{INPUT}{RELU}",
    "no layers": "7767517\n0 0\n",
    "too few layers": f"7767517\n3 2\n{INPUT}{RELU}",
    "too few blobs": f"7767517\n2 1\n{INPUT}{RELU}",
    "absurd blob count": f"7767517\n2 2000000000\n{INPUT}{RELU}",
    "text after the counts": f"7767517\n2 2 blobs\n{INPUT}{RELU}",
    "comment": f"7767517\n2 2\n# comment\n{INPUT}{RELU}",
    "comment behind a layer": f"{HEAD}Input in 0 1 a # comment\n{RELU}",
    "two layers in a line": f"{HEAD}{INPUT.strip()} {RELU}",
    "parameters on the next line": f"{HEAD}{INPUT}0=3\n{RELU}",
    "negative blob count": f"{HEAD}Input in -1 1 a\n{RELU}",
    "blob count past int": f"{HEAD}Input in 0 4294967297 a\n{RELU}",
    "name of 256 bytes": f"{HEAD}Input {'n' * 256} 0 1 a\n{RELU}",
    "cut inside a layer": f"{HEAD}{INPUT}ReLU r 1",
    "a cycle of one": f"{HEAD}{INPUT}ReLU r 1 1 b b\n",
    "read before produced": f"7767517\n3 3\n{INPUT}ReLU r 1 1 c b\nReLU q 1 1 a c\n",
}
# ncnn loads these and then computes something else than the file says.
WE_ALONE_REFUSE = {
    "unknown blob": f"7767517\n2 3\n{INPUT}ReLU r 1 1 x b\n",
    "blob produced twice": f"7767517\n4 5\n{INPUT}Split s 1 2 a x y\nReLU r 1 1 x b\nReLU q 1 1 y b\n",
    "blob read by two layers": f"7767517\n3 3\n{INPUT}ReLU r 1 1 a b\nReLU q 1 1 a c\n",
    "more layers than stated": f"{HEAD}{INPUT}{RELU}ReLU q 1 1 b c\n",
    "fewer blobs than stated": f"7767517\n2 9\n{INPUT}{RELU}",
    "parameter given twice": f"{HEAD}Input in 0 1 a 0=3 0=4\n{RELU}",
}


@pytest.mark.parametrize("text", BOTH_ACCEPT.values(), ids=BOTH_ACCEPT)
def test_what_ncnn_accepts_we_accept_and_write_for_ncnn(text: str) -> None:
    assert ncnn_parses(text) is not None
    model = we_parse(text)
    assert model is not None
    assert ncnn_parses(format_param(model)) is not None
    assert parse_param(format_param(model)) == model


@pytest.mark.parametrize("text", BOTH_REFUSE.values(), ids=BOTH_REFUSE)
def test_what_ncnn_refuses_we_refuse(text: str) -> None:
    assert ncnn_parses(text) is None
    assert we_parse(text) is None


@pytest.mark.parametrize("text", WE_ALONE_REFUSE.values(), ids=WE_ALONE_REFUSE)
def test_what_ncnn_misreads_we_refuse(text: str) -> None:
    assert ncnn_parses(text) is not None
    assert we_parse(text) is None


def bits(value: object) -> object:
    """A value as `_value` shows ncnn's."""
    if isinstance(value, tuple):
        return [
            int.from_bytes(struct.pack("<f" if isinstance(v, float) else "<i", v), "little", signed=True) for v in value
        ]
    if isinstance(value, float):
        return struct.pack("<f", value)
    return "string" if isinstance(value, str) else value


def same_parameters(tail: str) -> None:
    text = f"7767517\n2 2\nInput in 0 1 a\nProbe p 1 1 a b {tail}\n"
    theirs, model = ncnn_parses(text), we_parse(text)
    if model is None:
        return
    assert theirs is not None, "ncnn refuses what we accept"
    # an array without elements counts as given for us, as left out for ncnn
    ours = {param_id: bits(param.value) for param_id, param in model.layers[1].params.items() if param_id < 30}
    assert ours == theirs
    assert ncnn_parses(format_param(model)) == theirs


def refused_by_both_or_neither(tail: str) -> bool:
    text = f"7767517\n2 2\nInput in 0 1 a\nProbe p 1 1 a b {tail}\n"
    return (ncnn_parses(text) is None) == (we_parse(text) is None)


_VALUES = (
    "0=3 0=3.0 0=-3 0=1,2,3 0=1,2,3, 0=0.5, 0=5, 0=1,2.5 0=0.5,1 0=1,,2 -23300=3,1,2,3 -23300=0 -23300=2,1,2,3 "
    "-23300=3,1,2 -23300=2,1,2.5 -23300=1,2, 0=abc 0=a\"b\"c 0=inf 0=nan 0=-inf 0=1e5 0=1E5 0=1.5f 0=12abc 0=1. 0=.5 "
    "0=-.5 0=e5 0=1e 0=1e400 0=1e-400 0=1e39 0=3.4028235e38 0=2147483647 0=2147483648 0=-2147483648 0= =3 abc -5=3 "
    "00=3 0=0000000000000000000000003 0=0.123456789012345678901234567890 0=3=4 0=3;4 0=0x10 -23331=1,5 29=1 32=1 "
    "0=1_000 0=1.0,abc -23300=2,abc,1 0=_abc 0=0w,0h -0=5 +0=5 -23300=+1,5 -23300=01,5 -23300=1.0,5 0=9999999999.5 "
    "-23400=3 -23299=1 0=\"1\" 0=\"\" 0=\"abc\" 0=\"abc 0=\"abc\"1=4 0=\"abc\"def"
)  # fmt: skip
VALUES = _VALUES.split()
SPACED = (
    '0="a b,c" 1=2',
    '0=" abc" 1=2',
    '0="ab',
    "0= 3",
    "0 =3",
    "0=1, 2",
    "-23300=2 ,1,2",
    '0="a\tb" 1=2',
    '0="a" "b"',
)
LONG = (f"0={'a' * 255}", f"0={'a' * 256}", f'0="{"a" * 253}"', f"0={'1' * 300}.5", f"0=0.{'1' * 200}")


@pytest.mark.parametrize("tail", [*VALUES, *SPACED, *LONG])
def test_parameters_are_read_as_ncnn_reads_them(tail: str) -> None:
    same_parameters(tail)
    assert refused_by_both_or_neither(tail)


_TOKENS = st.text(alphabet='0123456789+-.eE,="aw ', max_size=12)
_FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
_PARAMS = st.builds("{}={:.8e}".format, st.integers(0, 31), _FLOATS)
_HINTS = st.lists(st.integers(-1, 5), max_size=10).map(lambda hints: f"30={','.join(map(str, hints))},")
_TAILS = st.one_of(
    _TOKENS,
    _HINTS,
    st.builds("{}={}".format, st.integers(-23310, 33), _TOKENS),
    st.lists(_PARAMS, max_size=4).map(" ".join),
)


@settings(max_examples=examples(1500), deadline=None, derandomize=True)
@example("0=1 2=3 0=")
@given(_TAILS)
def test_whatever_we_accept_ncnn_reads_the_same(tail: str) -> None:
    same_parameters(tail)


@settings(max_examples=examples(300), deadline=None, derandomize=True)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_floats_we_write_ncnn_reads_back(value: float) -> None:
    model = Model((Layer("Probe", "p", (), ("a",), {0: ParamValue(value), 1: ParamValue((value, -value))}),))
    read = ncnn_parses(format_param(model))
    assert read is not None
    if abs(value) >= 2**-126:  # ncnn may flush denormals
        assert read[0] == struct.pack("<f", value)
        assert read[1] == bits((value, -value))
