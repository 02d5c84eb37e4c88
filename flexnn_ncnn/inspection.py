"""What a model is made of: layers, weights, what is large and what can be sliced."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from param_tools.encoding import Encoding
from param_tools.graph import Layer
from param_tools.model_io import NcnnModel
from param_tools.schema import LAYERS, array_specs
from param_tools.shapes import BlobShape, ShapeReport, infer_shapes
from param_tools.slicing.manifest import SliceManifest, default_manifest_path, read_manifest
from param_tools.slicing.registry import axes
from param_tools.slicing.rule import Axis
from param_tools.weights import WeightArray

__all__ = ["BlobSummary", "EncodingSummary", "Inspection", "LayerSummary", "TypeSummary", "inspect_model"]

# What people call an encoding, where that is not its value.
_ENCODING_NAMES = {Encoding.FP32_UNTAGGED: "fp32", Encoding.FP32_RAW: "fp32", Encoding.INT8_UNTAGGED: "blocks"}


@dataclass(frozen=True)
class BlobSummary:
    """A blob.

    Attributes:
        name: its name.
        shape: its extents as a numpy array, outermost first; None where only running the model tells.
        unknown: why the shape is None, or "".
    """

    name: str
    shape: tuple[int, ...] | None
    unknown: str = ""


@dataclass(frozen=True)
class LayerSummary:
    """One layer.

    Attributes:
        index: its position in the .param, from 0.
        name: its name, not unique.
        type: ncnn's layer type.
        parameters: number of weights, scales of int8 weights included.
        weights_bytes: bytes of its weights in the .bin, tags and padding included; as fp32 where there is no .bin.
        encodings: how they are stored, such as ("fp16", "fp32"); empty where there is no .bin or no weight.
        outputs: the blobs it makes.
        slices: the ways it can be sliced, the best first; empty when it cannot.
    """

    index: int
    name: str
    type: str
    parameters: int
    weights_bytes: int
    encodings: tuple[str, ...]
    outputs: tuple[BlobSummary, ...]
    slices: tuple[Axis, ...]


@dataclass(frozen=True)
class TypeSummary:
    """All layers of one type.

    Attributes:
        type: ncnn's layer type.
        known: whether ncnn registers it; the weights of a custom layer cannot be told.
        layers: how many there are.
        parameters: number of weights in them.
        weights_bytes: bytes of their weights.
    """

    type: str
    known: bool
    layers: int
    parameters: int
    weights_bytes: int


@dataclass(frozen=True)
class EncodingSummary:
    """All weight arrays stored in one way.

    Attributes:
        encoding: "fp32", "fp16", "bf16", "int8", "table" (256 values and an index an element) or "blocks" (bytes that
            hold block-quantised weights).
        arrays: how many there are.
        weights_bytes: their bytes in the .bin, tags and padding included.
    """

    encoding: str
    arrays: int
    weights_bytes: int


@dataclass(frozen=True)
class Inspection:
    """What `inspect_model` found.

    Attributes:
        param_path: the .param.
        bin_path: the .bin.
        bin_found: whether there is a .bin; without one, sizes are those of fp32 weights.
        parameters: number of weights in the model.
        weights_bytes: bytes of all weights.
        inputs: the blobs to feed.
        outputs: the blobs nobody reads.
        types: per layer type, the most bytes first.
        encodings: per encoding, the most bytes first; empty where there is no .bin.
        layers: every layer in file order.
        sliced: what the model was sliced from, and how, where its manifest lies beside it; else None.
    """

    param_path: Path
    bin_path: Path
    bin_found: bool
    parameters: int
    weights_bytes: int
    inputs: tuple[BlobSummary, ...]
    outputs: tuple[BlobSummary, ...]
    types: tuple[TypeSummary, ...]
    encodings: tuple[EncodingSummary, ...]
    layers: tuple[LayerSummary, ...]
    sliced: SliceManifest | None

    @property
    def weighted(self) -> tuple[LayerSummary, ...]:
        """The layers that have weights, in file order."""
        return tuple(layer for layer in self.layers if layer.parameters)

    def largest(self, count: int) -> tuple[LayerSummary, ...]:
        """The `count` layers with the most bytes of weights, largest first."""
        return tuple(sorted(self.weighted, key=lambda layer: (-layer.weights_bytes, layer.index))[:count])


def inspect_model(opened: NcnnModel, input_shapes: Mapping[str, tuple[int, ...]] | None = None) -> Inspection:
    """Looks a model over; no weight is read.

    Args:
        opened: an open model, its .bin missing or not.
        input_shapes: shapes of input blobs that the .param does not tell, as numpy arrays have them.

    Raises:
        ModelFormatError: `input_shapes` names a blob that the model has not, or the manifest beside the model is
            damaged.
    """
    model, arrays = opened.model, opened.weights.arrays
    bin_found = opened.bin_path.exists()
    shapes = infer_shapes(model, {name: BlobShape.from_numpy(dims) for name, dims in (input_shapes or {}).items()})
    layers = tuple(
        _summarise(index, layer, arrays[index] if bin_found else None, shapes)
        for index, layer in enumerate(model.layers)
    )
    return Inspection(
        param_path=opened.param_path,
        bin_path=opened.bin_path,
        bin_found=bin_found,
        parameters=sum(layer.parameters for layer in layers),
        weights_bytes=sum(layer.weights_bytes for layer in layers),
        inputs=_blobs(model.input_blobs, shapes),
        outputs=_blobs(model.output_blobs, shapes),
        types=_by_type(layers),
        encodings=_by_encoding(array for of_layer in arrays for array in of_layer),
        layers=layers,
        sliced=_manifest_of(opened.param_path),
    )


def _manifest_of(param_path: Path) -> SliceManifest | None:
    path = default_manifest_path(param_path)
    return read_manifest(path) if path.exists() else None


def _summarise(index: int, layer: Layer, arrays: tuple[WeightArray, ...] | None, shapes: ShapeReport) -> LayerSummary:
    """One layer; from what its parameters call for when it has no `arrays` in a .bin."""
    encodings: tuple[str, ...] = ()
    if arrays is None:
        specs = array_specs(layer) if layer.type in LAYERS else ()
        parameters = sum(spec.count for spec in specs)
        weights_bytes = sum(spec.count * (1 if spec.packed else 4) for spec in specs)
    else:
        parameters = sum(array.count for array in arrays)
        weights_bytes = sum(array.end_bytes - array.begin_bytes for array in arrays)
        encodings = tuple(dict.fromkeys(_encoding_name(array) for array in arrays))
    return LayerSummary(
        index=index,
        name=layer.name,
        type=layer.type,
        parameters=parameters,
        weights_bytes=weights_bytes,
        encodings=encodings,
        outputs=_blobs(layer.outputs, shapes),
        slices=axes(layer),
    )


def _encoding_name(array: WeightArray) -> str:
    return _ENCODING_NAMES.get(array.encoding, array.encoding.value)


def _blobs(names: tuple[str, ...], shapes: ShapeReport) -> tuple[BlobSummary, ...]:
    found = ((name, shapes[name]) for name in names)
    return tuple(
        BlobSummary(name, shape.numpy_shape if shape else None, shapes.reasons.get(name, "")) for name, shape in found
    )


def _by_type(layers: Iterable[LayerSummary]) -> tuple[TypeSummary, ...]:
    groups: dict[str, list[LayerSummary]] = defaultdict(list)
    for layer in layers:
        groups[layer.type].append(layer)
    found = [
        TypeSummary(
            kind,
            kind in LAYERS,
            len(group),
            sum(one.parameters for one in group),
            sum(one.weights_bytes for one in group),
        )
        for kind, group in groups.items()
    ]
    return tuple(sorted(found, key=lambda one: (-one.weights_bytes, -one.layers, one.type)))


def _by_encoding(arrays: Iterable[WeightArray]) -> tuple[EncodingSummary, ...]:
    groups: dict[str, list[WeightArray]] = defaultdict(list)
    for array in arrays:
        groups[_encoding_name(array)].append(array)
    found = [
        EncodingSummary(name, len(group), sum(one.end_bytes - one.begin_bytes for one in group))
        for name, group in groups.items()
    ]
    return tuple(sorted(found, key=lambda one: (-one.weights_bytes, one.encoding)))
