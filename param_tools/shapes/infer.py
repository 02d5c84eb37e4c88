"""Shape inference over a whole model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from param_tools.errors import ModelFormatError
from param_tools.graph import Layer, Model
from param_tools.schema import ONE_BLOB_TYPES
from param_tools.shapes import axes, layout, matrices, pointwise, windows
from param_tools.shapes.blob_shape import BlobShape
from param_tools.shapes.rule import Dims, Rule, UnknownShapeError, require

__all__ = ["RULES", "ShapeReport", "infer_shapes"]

_MAX_COUNT = 2**31 - 1  # ncnn computes with the extents in ints
_SOURCES = frozenset(("Gemm", "Input", "MemoryData", "Noop"))  # types that can do without an input
RULES: Mapping[str, Rule] = {**pointwise.RULES, **windows.RULES, **axes.RULES, **layout.RULES, **matrices.RULES}


@dataclass(frozen=True)
class ShapeReport(Mapping[str, "BlobShape | None"]):
    """Blob name -> shape, None where it cannot be told without running the model.

    Attributes:
        shapes: every blob of the model.
        reasons: for each unknown blob the reason, naming the layer; the blobs behind it name it in turn.
    """

    shapes: Mapping[str, BlobShape | None]
    reasons: Mapping[str, str]

    def __getitem__(self, blob: str) -> BlobShape | None:
        return self.shapes[blob]

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def infer_shapes(model: Model, inputs: Mapping[str, BlobShape]) -> ShapeReport:
    """Computes the shape of every blob.

    Args:
        model: the layers; every blob is produced before it is read.
        inputs: shapes of input blobs, for those that the .param does not tell; a shape given for another
            blob is a hint that overrules inference there.

    Returns:
        The shapes, and why the others are unknown.

    Raises:
        ModelFormatError: `inputs` names a blob that the model has not.
    """
    for blob in inputs:
        if blob not in model.producers:
            raise ModelFormatError(
                f"the model has no blob {blob!r} to give a shape to", hint=f"inputs: {', '.join(model.input_blobs)}"
            )
    shapes: dict[str, BlobShape | None] = {}
    reasons: dict[str, str] = {}
    for index in model.topological_order():
        layer = model.layers[index]
        try:
            made: Sequence[BlobShape | None] = _layer_shapes(layer, [shapes[blob] for blob in layer.inputs])
            reason = f"only running layer {layer.name!r} ({layer.type}) tells"
        except (UnknownShapeError, ModelFormatError) as error:
            made, reason = [None] * len(layer.outputs), f"layer {layer.name!r} ({layer.type}): {error}"
        for blob, shape in zip(layer.outputs, made, strict=True):
            shapes[blob] = inputs.get(blob, shape)
            if shapes[blob] is None:
                reasons[blob] = reason
    return ShapeReport(shapes, reasons)


def _layer_shapes(layer: Layer, inputs: Sequence[BlobShape | None]) -> list[BlobShape | None]:
    known: list[Dims] = []
    for blob, shape in zip(layer.inputs, inputs, strict=True):
        if shape is None:
            raise UnknownShapeError(f"the shape of its input {blob!r} is unknown")
        known.append(shape.numpy_shape)
    rule = RULES.get(layer.type)
    if rule is None:
        raise UnknownShapeError("no shape rule for this type: give its output's shape as a hint, or let it be measured")
    require(bool(known) or layer.type in _SOURCES, "it has no input")
    require(len(known) == 1 or layer.type not in ONE_BLOB_TYPES, f"it has {len(known)} inputs, not one")
    made = rule(layer, known)
    require(len(made) == len(layer.outputs), f"it makes {len(made)} blobs, not {len(layer.outputs)}")
    return [None if dims is None else _checked(dims) for dims in made]


def _checked(dims: Dims) -> BlobShape:
    if not 1 <= len(dims) <= 4 or min(dims) < 1:
        raise UnknownShapeError(f"it would make a blob of shape {dims}")
    shape = BlobShape.from_numpy(dims)
    if shape.count > _MAX_COUNT:
        raise UnknownShapeError(f"it would make a blob of {shape.count} elements")
    return shape
