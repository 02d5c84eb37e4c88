"""The binary .param format (.param.bin of ncnn2mem): bytes <-> `Model`.

The same content as the text, in little-endian int32s: magic, layers, blobs; per layer its type index, counts
and blob indices; per parameter its id and value; -233. It has no names, so blobs are called by their index,
and it does not say which numbers are floats, so the schema does; for custom layers and inside arrays a value
whose bits would be a denormal float is an integer.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from os import PathLike
from types import MappingProxyType

from param_tools.check import check_model
from param_tools.errors import ModelFormatError
from param_tools.graph import Layer, Model, ParamValue
from param_tools.param_text import MAGIC
from param_tools.param_value import MAX_PARAM_ID, MAX_TEXT_BYTES, OLD_ARRAY_ID, Value, decode
from param_tools.schema import COMMON_PARAMS, LAYERS

__all__ = ["TYPE_NAMES", "format_param_binary", "is_binary", "parse_param_binary"]

# ncnn's registry: the position is the type index. ArgMax and SPP are numbered but not built into the wheel.
_REGISTRY = (
    "AbsVal ArgMax BatchNorm Bias BNLL Concat Convolution Crop Deconvolution Dropout Eltwise ELU Embed Exp Flatten "
    "InnerProduct Input Log LRN MemoryData MVN Pooling Power PReLU Proposal Reduction ReLU Reshape ROIPooling Scale "
    "Sigmoid Slice Softmax Split SPP TanH Threshold Tile RNN LSTM BinaryOp UnaryOp ConvolutionDepthWise Padding "
    "Squeeze ExpandDims Normalize Permute PriorBox DetectionOutput Interp DeconvolutionDepthWise ShuffleChannel "
    "InstanceNorm Clip Reorg YoloDetectionOutput Quantize Dequantize Yolov3DetectionOutput PSROIPooling ROIAlign "
    "Packing Requantize Cast HardSigmoid SELU HardSwish Noop PixelShuffle DeepCopy Mish StatisticsPooling Swish Gemm "
    "GroupNorm LayerNorm Softplus GRU MultiHeadAttention GELU Convolution1D Pooling1D ConvolutionDepthWise1D "
    "Convolution3D ConvolutionDepthWise3D Pooling3D MatMul Deconvolution1D DeconvolutionDepthWise1D Deconvolution3D "
    "DeconvolutionDepthWise3D Einsum DeformableConv2D GLU Fold Unfold GridSample CumulativeSum CopyTo Erf Diag CELU "
    "Shrink RMSNorm Spectrogram InverseSpectrogram Flip SDPA RotaryEmbed "
)
TYPE_NAMES = tuple(_REGISTRY.split())
_TYPE_INDICES = {name: index for index, name in enumerate(TYPE_NAMES)}
_CUSTOM_BIT = 256
_CUSTOM_PREFIX = "CustomLayer"
_STRING_ID = -23400
_END_OF_PARAMS = -233
_SMALLEST_NORMAL_BITS = 0x00800000


class _Cursor:
    """Reads a buffer front to back, never past its end."""

    def __init__(self, data: bytes, path: str | PathLike[str] | None) -> None:
        self.data, self.path, self.offset = data, path, 0

    def error(self, message: str) -> ModelFormatError:
        return ModelFormatError(message, path=self.path, offset_bytes=self.offset)

    def take(self, size_bytes: int, what: str) -> bytes:
        if size_bytes > len(self.data) - self.offset:
            raise self.error(f"the file ends inside {what}")
        begin, self.offset = self.offset, self.offset + size_bytes
        return self.data[begin : self.offset]

    def integer(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "little", signed=True)

    def count(self, what: str) -> int:
        """A number of things that take at least four bytes each."""
        number = self.integer(what)
        if not 0 <= number <= (len(self.data) - self.offset) // 4:
            raise self.error(f"{number} is no possible {what}")
        return number


def is_binary(data: bytes) -> bool:
    """Whether a .param with this content, or beginning, is a binary one."""
    return data[:4] == MAGIC.to_bytes(4, "little")


def parse_param_binary(data: bytes, *, path: str | PathLike[str] | None = None) -> Model:
    """Reads a binary .param.

    Args:
        data: the file's content.
        path: named in errors.

    Raises:
        ModelFormatError: anything ncnn could not load, with path and offset.
    """
    cursor = _Cursor(data, path)
    if cursor.integer("the magic number") != MAGIC:
        raise ModelFormatError(f"not a binary ncnn .param: it does not begin with {MAGIC}", path=path, offset_bytes=0)
    layer_count, blob_count = cursor.count("number of layers"), cursor.count("number of blobs")
    if not layer_count or not blob_count:
        raise cursor.error("a model without layers or blobs")
    model = Model(tuple(_read_layer(cursor, index, blob_count) for index in range(layer_count)))
    if cursor.offset != len(data):
        raise cursor.error(f"{len(data) - cursor.offset} bytes follow the last layer")
    check_model(model, path=path)
    if len(model.producers) != blob_count:
        raise cursor.error(f"the file says {blob_count} blobs but has {len(model.producers)}")
    return model


def _read_layer(cursor: _Cursor, index: int, blob_count: int) -> Layer:
    type_index = cursor.integer("a layer")
    counts = [cursor.count("number of inputs"), cursor.count("number of outputs")]
    blobs = [tuple(_read_blob(cursor, blob_count) for _ in range(count)) for count in counts]
    layer_type = _type_name(cursor, type_index)
    kinds = _kinds(layer_type)
    params: dict[int, ParamValue] = {}
    while (written_id := cursor.integer("a parameter")) != _END_OF_PARAMS:
        param_id, value = _read_param(cursor, written_id, kinds)
        if param_id in params:
            raise cursor.error(f"parameter {param_id} is given twice")
        params[param_id] = ParamValue(value)
    return Layer(layer_type, f"layer{index}", blobs[0], blobs[1], MappingProxyType(params))


def _read_blob(cursor: _Cursor, blob_count: int) -> str:
    index = cursor.integer("a blob")
    if not 0 <= index < blob_count:
        raise cursor.error(f"blob {index} of {blob_count}")
    return str(index)


def _type_name(cursor: _Cursor, type_index: int) -> str:
    if 0 <= type_index < len(TYPE_NAMES):
        return TYPE_NAMES[type_index]
    if type_index >= _CUSTOM_BIT and type_index & _CUSTOM_BIT:
        return f"{_CUSTOM_PREFIX}{type_index & ~_CUSTOM_BIT}"
    raise cursor.error(f"layer type {type_index} does not exist")


def _kinds(layer_type: str) -> Mapping[int, str]:
    params = LAYERS[layer_type].params if layer_type in LAYERS else ()
    return {param.id: param.kind for param in (*params, *COMMON_PARAMS)}


def _read_param(cursor: _Cursor, written_id: int, kinds: Mapping[int, str]) -> tuple[int, Value]:
    base = next((base for base in (_STRING_ID, OLD_ARRAY_ID) if written_id <= base), 0)
    param_id = base - written_id if base else written_id
    if not 0 <= param_id <= MAX_PARAM_ID:
        raise cursor.error(f"parameter id {written_id} is not in 0..{MAX_PARAM_ID}")
    if base == _STRING_ID:
        length = cursor.integer("the length of a string")
        if not 0 <= length <= MAX_TEXT_BYTES:
            raise cursor.error(f"a string of {length} bytes")
        text = cursor.take((length + 3) // 4 * 4, "a string")[:length]
        return param_id, decode(text.split(b"\0")[0])
    if base == OLD_ARRAY_ID:
        count = cursor.count("length of an array")
        return param_id, _numbers(cursor, struct.unpack(f"<{count}i", cursor.take(count * 4, "an array")))
    bits = cursor.integer("a value")
    kind = kinds.get(param_id, "")
    if kind == "int" or (kind != "float" and _is_int(bits)):
        return param_id, bits
    return param_id, _as_float(cursor, bits)


def _numbers(cursor: _Cursor, bits: tuple[int, ...]) -> tuple[int | float, ...]:
    return bits if all(map(_is_int, bits)) else tuple(_as_float(cursor, element) for element in bits)


def _is_int(bits: int) -> bool:
    return -_SMALLEST_NORMAL_BITS < bits < _SMALLEST_NORMAL_BITS


def _as_float(cursor: _Cursor, bits: int) -> float:
    value = float(struct.unpack("<f", struct.pack("<i", bits))[0])
    if not math.isfinite(value):
        raise cursor.error(f"a parameter is {value}")
    return value


def format_param_binary(model: Model) -> bytes:
    """Writes `model` as a binary .param; the names of layers and blobs are lost.

    Raises:
        ModelFormatError: a model that breaks an invariant, or a value the format cannot hold.
    """
    check_model(model)
    blobs = _blob_numbers(model)
    customs: dict[str, int] = {}
    parts = [_ints(MAGIC, len(model.layers), len(blobs))]
    for layer in model.layers:
        indices = [blobs[blob] for blob in (*layer.inputs, *layer.outputs)]
        parts.append(_ints(_type_index(layer.type, customs), len(layer.inputs), len(layer.outputs), *indices))
        parts.extend(_write_params(layer))
    return b"".join(parts)


def _blob_numbers(model: Model) -> Mapping[str, int]:
    names = tuple(model.producers)
    if set(names) == {str(index) for index in range(len(names))}:
        return {name: int(name) for name in names}
    return {name: index for index, name in enumerate(names)}


def _type_index(layer_type: str, customs: dict[str, int]) -> int:
    if layer_type in _TYPE_INDICES:
        return _TYPE_INDICES[layer_type]
    number = layer_type[len(_CUSTOM_PREFIX) :]
    if layer_type.startswith(_CUSTOM_PREFIX) and number.isdecimal() and int(number) < _CUSTOM_BIT:
        return _CUSTOM_BIT | int(number)
    return _CUSTOM_BIT | customs.setdefault(layer_type, len(customs))


def _write_params(layer: Layer) -> Iterator[bytes]:
    kinds = _kinds(layer.type)
    for param_id, param in layer.params.items():
        value = param.value
        if isinstance(value, str):
            text = value.encode("utf-8", "surrogateescape")
            if len(text) > MAX_TEXT_BYTES:
                raise ModelFormatError(f"layer {layer.name!r}: parameter {param_id} is a string of {len(text)} bytes")
            yield _ints(_STRING_ID - param_id, len(text)) + text + bytes(-len(text) % 4)
        elif isinstance(value, tuple):
            yield _ints(OLD_ARRAY_ID - param_id, len(value)) + b"".join(_number(number) for number in value)
        else:
            yield _ints(param_id) + _number(float(value) if kinds.get(param_id) == "float" else value)
    yield _ints(_END_OF_PARAMS)


def _ints(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}i", *numbers)


def _number(value: int | float) -> bytes:
    return struct.pack("<f" if isinstance(value, float) else "<i", value)
