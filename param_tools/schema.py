"""The one table of ncnn's layer types: parameter ids, names, defaults and ordered weight arrays.

Everything that reads, writes, slices or documents a model asks this table. Its rows are data (`schema_weighted`,
`schema_weightless`); `docs/formats/ncnn-model.md` is generated from it.

Notation of a parameter list: ``"0 num_output, 11 kernel_h=kernel_w, 18 pad_value=0., 10 activation_params=[]"``,
that is ``id name=default``. The default says the kind: nothing or an expression over earlier parameters is an
integer, a literal with a point is a float, ``[]`` an array, ``""`` a string. Expressions of weight arrays are
over parameter names too, so the table is also its own documentation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from param_tools.errors import ModelFormatError, UnsupportedLayerError
from param_tools.graph import Layer, Scalar
from param_tools.schema_expression import REST, dimensions, evaluate
from param_tools.schema_types import ArraySchema, ArraySpec, LayerSchema, ParamSchema
from param_tools.schema_weighted import WEIGHTED
from param_tools.schema_weightless import WEIGHTLESS

__all__ = [
    "COMMON_PARAMS",
    "LAYERS",
    "ONE_BLOB_TYPES",
    "ArraySchema",
    "ArraySpec",
    "LayerSchema",
    "ParamSchema",
    "array_param",
    "array_specs",
    "describe",
    "float_param",
    "int_params",
    "param_id",
    "string_param",
    "with_named_params",
]

_PACKED_LOADS = (3, 4, 6, 8)
_MAX_COUNT = 2**31 - 1  # ncnn counts the elements of a tensor in an int


def _parse_params(text: str) -> tuple[ParamSchema, ...]:
    found = []
    for entry in filter(None, (part.strip() for part in text.split(","))):
        number, _, rest = entry.partition(" ")
        name, _, default = rest.partition("=")
        kind = {"[]": "array", '""': "string"}.get(default) or ("float" if "." in default else "int")
        found.append(ParamSchema(int(number), name, kind, "" if kind in ("array", "string") else default or "0"))
    return tuple(found)


def _parse_arrays(rows: tuple[tuple[str, ...], ...]) -> tuple[ArraySchema, ...]:
    return tuple(ArraySchema(*row) for row in rows)


COMMON_PARAMS = _parse_params("30 top_shape_hints=[], 31 feature_mask")
LAYERS: Mapping[str, LayerSchema] = MappingProxyType(
    {name: LayerSchema(name, _parse_params(params), _parse_arrays(rows)) for name, (params, rows) in WEIGHTED.items()}
    | {name: LayerSchema(name, _parse_params(params)) for name, params in WEIGHTLESS.items()}
)


# Types that may have other than one input and one output; ncnn refuses any of the others that has.
_MANY_BLOBS = (
    "BinaryOp Concat Convolution Convolution1D ConvolutionDepthWise ConvolutionDepthWise1D CopyTo Crop Deconvolution "
    "Deconvolution1D DeconvolutionDepthWise DeconvolutionDepthWise1D DeformableConv2D DetectionOutput Einsum Eltwise "
    "Gemm GridSample GRU Input Interp LSTM MatMul MemoryData MultiHeadAttention Noop PriorBox Proposal PSROIPooling "
    "Reshape RNN ROIAlign ROIPooling RotaryEmbed Scale SDPA Slice Split YoloDetectionOutput Yolov3DetectionOutput"
)
ONE_BLOB_TYPES = frozenset(LAYERS) - frozenset(_MANY_BLOBS.split())


_INT_PARAMS = "_int_params"


def describe(layer: Layer) -> LayerSchema:
    """The schema of `layer`'s type; `UnsupportedLayerError` for a type ncnn does not register."""
    found = LAYERS.get(layer.type)
    if found is None:
        raise UnsupportedLayerError(f"layer {layer.name!r}: unknown layer type {layer.type!r}")
    return found


def int_params(layer: Layer) -> Mapping[str, int]:
    """Every integer parameter of `layer` by name, defaults filled in."""
    found: Mapping[str, int] | None = vars(layer).get(_INT_PARAMS)
    if found is None:  # kept with the layer, which never changes: they are asked for dozens of times
        found = vars(layer)[_INT_PARAMS] = MappingProxyType(_int_params(layer))
    return found


def _int_params(layer: Layer) -> dict[str, int]:
    values: dict[str, int] = {}
    for param in describe(layer).params:
        if param.kind == "int":
            if param.id in layer.params:
                values[param.name] = layer.int_param(param.id)
            else:
                values[param.name] = evaluate(param.default, values)
    return values


def param_id(layer_type: str, name: str) -> int:
    """The id of the parameter called `name`."""
    return LAYERS[layer_type].param(name).id


def float_param(layer: Layer, name: str) -> float:
    """The float parameter called `name`, or its default."""
    param = describe(layer).param(name)
    if param.id in layer.params:
        return layer.float_param(param.id)
    try:
        return float(evaluate(param.default, int_params(layer)))
    except (ArithmeticError, TypeError) as error:  # a root of a negative number is complex, no float
        raise ModelFormatError(
            f"layer {layer.name!r} ({layer.type}): its parameters give no {name}", line=layer.line or None
        ) from error


def array_param(layer: Layer, name: str) -> tuple[int | float, ...]:
    """The array parameter called `name`; empty when the file leaves it out."""
    return layer.array_param(describe(layer).param(name).id)


def string_param(layer: Layer, name: str) -> str:
    """The string parameter called `name`; empty when the file leaves it out."""
    found = layer.params.get(describe(layer).param(name).id)
    return found.value if found is not None and isinstance(found.value, str) else ""


def with_named_params(layer: Layer, **changes: Scalar | tuple[int | float, ...] | None) -> Layer:
    """`layer` with parameters replaced by name, or removed where the new value is None."""
    schema = describe(layer)
    return layer.with_params({schema.param(name).id: value for name, value in changes.items()})


def array_specs(layer: Layer) -> tuple[ArraySpec, ...]:
    """The weight arrays `layer`'s parameters call for, in .bin order.

    Raises:
        UnsupportedLayerError: a layer type ncnn does not register.
        ModelFormatError: parameters that make no tensor: zero, negative or over 2^31 elements, or a
            stated element count that its dimensions do not divide.
    """
    arrays = describe(layer).arrays
    if not arrays:
        return ()
    values = int_params(layer)
    return tuple(_spec(layer, array, values) for array in arrays if not array.when or evaluate(array.when, values))


def _spec(layer: Layer, array: ArraySchema, values: Mapping[str, int]) -> ArraySpec:
    try:
        dims = _dimensions(array, values)
    except ZeroDivisionError:
        dims = (0,)
    load = evaluate(array.load, values)
    if load not in (0, 1, *_PACKED_LOADS):
        raise ModelFormatError(
            f"layer {layer.name!r} ({layer.type}): ncnn has no load type {load}", line=layer.line or None
        )
    spec = ArraySpec(array.name, dims, load == 0, load in _PACKED_LOADS, bool(evaluate(array.int8, values)))
    stated = evaluate(array.count, values) if array.count else spec.count
    if min(dims) <= 0 or spec.count > _MAX_COUNT or spec.count != stated:
        shown = array.shape.replace(REST, "inputs")
        raise ModelFormatError(
            f"layer {layer.name!r} ({layer.type}): its parameters give array {array.name!r} "
            f"the impossible shape ({shown}) = {dims}" + (f" for {stated} elements" if array.count else ""),
            line=layer.line or None,
        )
    return spec


def _dimensions(array: ArraySchema, values: Mapping[str, int]) -> tuple[int, ...]:
    parts = dimensions(array.shape)
    dims = [1 if part == REST else int(evaluate(part, values)) for part in parts]
    if REST in parts:
        dims[parts.index(REST)] = int(evaluate(array.count, values)) // math.prod(dims)
    return tuple(dims)
