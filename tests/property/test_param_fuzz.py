"""Damaged model files: read right or refused with an error of ours, never anything else."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from param_tools.encoding import Encoding
from param_tools.errors import FlexnnError, ModelFormatError
from param_tools.graph import Layer, Model, ParamValue
from param_tools.model_io import NcnnModel, open_model, write_model
from param_tools.param_binary import format_param_binary, parse_param_binary
from param_tools.param_text import format_param, parse_param
from param_tools.schema import LAYERS, array_specs
from param_tools.shapes import BlobShape, infer_shapes
from param_tools.weights import StoredArray
from tests.examples import examples

TEXT = """7767517
9 10
Input                    in                       0 1 a 0=8 1=8 2=4
Convolution              conv                     1 1 a b 0=4 1=3 4=1 5=1 6=144 8=2 9=2 -23310=1,2.0e-01
PReLU                    prelu                    1 1 b c 0=4
Split                    split                    1 2 c d e
Reshape                  reshape                  1 1 d f 6="0w,0h,-1"
Gemm                     gemm                     1 1 e g 3=1 5=1 6=1 8=3 9=8 10=4
MemoryData               memory                   0 1 h 0=3 1=5 21=0
LSTM                     lstm                     1 1 h i 0=2 1=48 2=2
LayerNorm                norm                     1 1 i j 0=4 1=1.000000e-05
"""
MODEL = parse_param(TEXT)
FUZZ = settings(max_examples=examples(250), deadline=None, suppress_health_check=[HealthCheck.too_slow])


def packed() -> bytes:
    """The .bin of the model, every encoding in it."""
    kinds = iter(
        (Encoding.INT8, Encoding.FP16, Encoding.FP32, Encoding.BF16, Encoding.TABLE, Encoding.FP32_RAW, Encoding.FP16)
    )
    arrays = []
    for layer in MODEL.layers:
        for spec in array_specs(layer):
            kind = next(kinds) if spec.tagged else Encoding.FP32_UNTAGGED
            arrays.append(
                StoredArray(
                    np.ones(spec.count, np.float32 if kind is Encoding.BF16 else kind.dtype),
                    kind,
                    np.zeros(256, np.float32) if kind is Encoding.TABLE else None,
                )
            )
    with tempfile.TemporaryDirectory() as folder:
        write_model(MODEL, arrays, Path(folder, "m.param"), Path(folder, "m.bin"))
        return Path(folder, "m.bin").read_bytes()


BIN = packed()


@contextmanager
def opened(text: bytes, data: bytes) -> Iterator[NcnnModel]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "m.param").write_bytes(text)
        Path(folder, "m.bin").write_bytes(data)
        with open_model(Path(folder, "m.param")) as model:
            yield model


def refused_by_name(error: FlexnnError, name: str) -> None:
    assert name in str(error)


def every_array_lies_inside(model: NcnnModel) -> None:
    end = 0
    for arrays in model.weights.arrays:
        for array in arrays:
            assert array.begin_bytes == end
            end = array.end_bytes
            assert model.weights.read_float32(array).shape == array.shape
    assert end == model.weights.size_bytes


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` after a few cuts, bit flips, deletions, repetitions and insertions of telling tokens."""
    made = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(made)))
        match draw(st.sampled_from(("cut", "flip", "delete", "repeat", "insert"))):
            case "cut":
                del made[at:]
            case "flip" if at < len(made):
                made[at] ^= 1 << draw(st.integers(0, 7))
            case "delete":
                del made[at : at + draw(st.integers(1, 40))]
            case "repeat":
                made[at:at] = made[at : at + draw(st.integers(1, 60))]
            case "insert":
                made[at:at] = draw(_TELLING)
    return bytes(made)


_TELLING = st.one_of(
    st.binary(max_size=8),
    st.sampled_from(b'-1;2147483648;-2147483648;99999999999999999999;nan;1e39;";=;,;\n; ;\0;#'.split(b";")),
    st.integers(-(2**31), 2**31 - 1).map(lambda value: value.to_bytes(4, "little", signed=True)),
)


def test_the_undamaged_model_is_good() -> None:
    with opened(TEXT.encode(), BIN) as model:
        every_array_lies_inside(model)
    assert not infer_shapes(MODEL, {}).reasons


@FUZZ
@example(b"")
@given(st.one_of(damaged(TEXT.encode()), st.binary(max_size=200)))
def test_text_is_read_or_refused(data: bytes) -> None:
    try:
        model = parse_param(data, path="m.param")
    except ModelFormatError as error:
        refused_by_name(error, "m.param")
        return
    assert parse_param(format_param(model)) == model
    infer_shapes(model, {})


@FUZZ
@given(st.one_of(damaged(format_param_binary(MODEL)), st.binary(max_size=200)))
def test_binary_is_read_or_refused(data: bytes) -> None:
    try:
        model = parse_param_binary(data, path="m.param")
    except ModelFormatError as error:
        refused_by_name(error, "m.param")
        return
    # Some values have several spellings: reading what we write is a fixed point.
    again = parse_param_binary(format_param_binary(model))
    assert format_param_binary(again) == format_param_binary(model)


@FUZZ
@given(damaged(TEXT.encode()))
def test_weights_of_another_model_are_read_inside_the_file_or_refused(text: bytes) -> None:
    try:
        with opened(text, BIN) as model:
            every_array_lies_inside(model)
    except FlexnnError:
        pass


@FUZZ
@given(damaged(BIN))
def test_damaged_weights_are_read_inside_the_file_or_refused(data: bytes) -> None:
    try:
        with opened(TEXT.encode(), data) as model:
            every_array_lies_inside(model)
    except FlexnnError as error:
        refused_by_name(error, "m.bin")


@FUZZ
@given(st.integers(0, len(BIN) - 1))
def test_truncated_weights_are_always_refused(size_bytes: int) -> None:
    with pytest.raises(ModelFormatError, match="ends inside"), opened(TEXT.encode(), BIN[:size_bytes]):
        pass


_FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)
_INTS = st.integers(-(2**31), 2**31 - 1)
_STRINGS = st.text(
    st.characters(codec="utf-8", exclude_characters='"\0', exclude_categories=("Cc", "Zl", "Zp")), max_size=60
)
_VALUES = st.one_of(
    _INTS, _FLOATS, _STRINGS, st.lists(_INTS, max_size=5).map(tuple), st.lists(_FLOATS, max_size=5).map(tuple)
)
_NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=12)
_ONE_TO_ONE = ["ReLU", "Sigmoid", "MyOwnLayer", "Flatten"]


@st.composite
def models(draw: st.DrawFn) -> Model:
    names = draw(st.lists(_NAMES, min_size=1, max_size=8, unique=True))
    layers = [Layer("Input", draw(_NAMES), (), (names[0],))]
    unread = names[:1]
    for name in names[1:]:
        params = draw(st.dictionaries(st.integers(0, 29), _VALUES.map(ParamValue), max_size=5))
        source = unread.pop(draw(st.integers(0, len(unread) - 1)))
        unread.append(name)
        layers.append(Layer(draw(st.sampled_from(_ONE_TO_ONE)), draw(_NAMES), (source,), (name,), params))
    return Model(tuple(layers))


def float32(value: object) -> object:
    if isinstance(value, tuple):
        return tuple(map(float32, value))
    return np.float32(value) if isinstance(value, float) else value


@settings(FUZZ, max_examples=examples(100))
@given(models())
def test_any_model_reads_back_as_written(model: Model) -> None:
    read = parse_param(format_param(model))
    assert [(a.type, a.name, a.inputs, a.outputs) for a in read.layers] == [
        (a.type, a.name, a.inputs, a.outputs) for a in model.layers
    ]
    for ours, theirs in zip(model.layers, read.layers, strict=True):
        assert {k: float32(v.value) for k, v in ours.params.items()} == {
            k: float32(v.value) for k, v in theirs.params.items()
        }


_BLOB = st.integers(1, 4).flatmap(lambda rank: st.tuples(*[st.integers(1, 40)] * rank))


@settings(max_examples=examples(400), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_layer_gets_shapes_or_a_reason(data: st.DataObject) -> None:
    """Whatever the parameters: a shape, or words; no exception and no shape that cannot be."""
    schema = LAYERS[data.draw(st.sampled_from(sorted(LAYERS)))]
    small = st.integers(-3, 9)
    kinds = {"int": st.one_of(small, st.sampled_from((-233, -234, 2**31 - 1))), "float": _FLOATS, "string": _STRINGS}
    kinds["array"] = st.lists(st.one_of(small, st.just(-233)), max_size=5).map(tuple)
    some = data.draw(st.lists(st.sampled_from(schema.params), max_size=8, unique=True)) if schema.params else []
    params = {param.id: ParamValue(data.draw(kinds[param.kind])) for param in some}
    inputs = data.draw(st.lists(_BLOB, max_size=3))
    blobs = tuple(f"in{i}" for i in range(len(inputs)))
    layer = Layer(schema.type, "probe", blobs, ("x", "y")[: data.draw(st.integers(1, 2))], params)
    model = Model((*(Layer("Input", blob, (), (blob,)) for blob in blobs), layer))
    report = infer_shapes(model, {b: BlobShape.from_numpy(s) for b, s in zip(blobs, inputs, strict=True)})
    for blob in layer.outputs:
        shape = report[blob]
        assert (shape is None) == (blob in report.reasons)
        if shape is not None:
            assert min(shape.numpy_shape) >= 1
            assert shape.count < 2**31
