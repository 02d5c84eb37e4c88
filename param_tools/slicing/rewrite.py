"""A model with some layers cut into slices, in standard layers only: stock ncnn runs the result.

A cut layer becomes Split (or Slice, or Split and Crop) -> slices -> Concat (or a sum). Where the next layer is
cut at the same places, the slices are connected directly and the join and the cut between them fall away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from param_tools.check import check_model
from param_tools.errors import UnsupportedLayerError
from param_tools.graph import Layer, Model
from param_tools.schema import LAYERS, array_specs, int_params, with_named_params
from param_tools.shapes import BlobShape
from param_tools.slicing.cut import Cut, CutLayer, SlicedModel, Source, file_axes, known_shapes, quantises_output
from param_tools.slicing.registry import take
from param_tools.slicing.rule import HINTS, Axis, LayerSlice, take_arrays

__all__ = ["apply_cuts"]

_AXIS_NUMBER = {"c": 0, "h": -2, "w": -1}  # negative ones count from the innermost, whatever the blob's dimensions
_MAX_NAME_BYTES = 240  # ncnn reads 255; the rest is for what makes a name unique
_ELTWISE_SUM = 1
_REQUANTISES = 100  # added to an int8_scale_term: the output is int8
_FIRST, _LAST = -1, 1 << 30


def apply_cuts(model: Model, cuts: Sequence[Cut], shapes: Mapping[str, BlobShape] | None = None) -> SlicedModel:
    """Cuts layers of `model`.

    Args:
        model: the original.
        cuts: at most one per layer; one with a single range does nothing.
        shapes: blob -> shape, as far as known; cutting by rows needs those of the layer's inputs.

    Raises:
        UnsupportedLayerError: a layer cannot be cut so.
        ValueError: two cuts of one layer, or ranges that do not cover its axis.
    """
    wanted = {cut.layer_index: cut for cut in cuts if len(cut.ranges) > 1}
    if len({cut.layer_index for cut in cuts}) < len(cuts):
        raise ValueError("two cuts of one layer")
    check_model(model)
    builder = _Builder(model, shapes or {})
    for index in range(len(model.layers)):
        if index in wanted:
            builder.cut(wanted[index])
        else:
            builder.keep(index)
    result = builder.finish()
    check_model(result.model)
    return result


@dataclass(frozen=True, slots=True)
class _Emitted:
    """A layer of the result, with what decides its weights and its place.

    The layers of a group run slice by slice: `slice_index` is that of the slice, or _FIRST or _LAST.
    """

    layer: Layer
    group: int
    slice_index: int
    sources: tuple[Source, ...] = ()
    of_cut: tuple[int, int] | None = None  # index of the original layer, and which slice of it


@dataclass(frozen=True, slots=True)
class _Parts:
    """The slices of a blob that nobody has joined yet."""

    layer: Layer
    axis: Axis
    ranges: tuple[tuple[int, int], ...]
    names: tuple[str, ...]
    group: int
    requantise: Source | None  # the scale, when the slices left their output unquantised


class _Builder:
    """Emits the layers of the result while walking over those of the original."""

    def __init__(self, model: Model, shapes: Mapping[str, BlobShape]) -> None:
        self._model = model
        self._shapes = shapes
        self._emitted: list[_Emitted] = []
        self._open: dict[str, _Parts] = {}
        self._names = set(model.producers) | {layer.name for layer in model.layers}
        self._cuts: list[tuple[Cut, Axis]] = []

    def keep(self, index: int) -> None:
        layer = self._model.layers[index]
        for blob in layer.inputs:
            self._join(blob)
        takes = take_arrays(array_specs(layer), {}, 0, 0) if layer.type in LAYERS else ()
        self._emitted.append(_Emitted(layer, index, _FIRST, tuple(Source(index, take) for take in takes)))

    def cut(self, cut: Cut) -> None:
        index = cut.layer_index
        layer = self._model.layers[index]
        axis = next((axis for axis in file_axes(self._model, index, self._shapes) if axis.name == cut.axis), None)
        if axis is None:
            raise UnsupportedLayerError(
                f"layer {layer.name!r} ({layer.type}) cannot be cut along {cut.axis!r} in a file"
            )
        if [0, *(end for _, end in cut.ranges)] != [*(begin for begin, _ in cut.ranges), axis.units]:
            raise ValueError(f"layer {layer.name!r}: {cut.ranges} do not cover its {axis.units} {axis.name}")
        inputs = known_shapes(self._model, index, self._shapes)
        parts = [take(layer, cut.axis, begin, end, inputs) for begin, end in cut.ranges]
        requantise = None
        if quantises_output(self._model, index):  # ncnn's Concat would corrupt int8: quantise after it instead
            requantise = Source(index, parts[0].arrays[-1])
            parts = [_dequantising(part) for part in parts]
        self._cuts.append((cut, axis if requantise is None else replace(axis, exact=False)))
        group = next(
            (self._open[blob].group for i, blob in enumerate(layer.inputs) if self._fits(i, blob, parts)), index
        )
        feeds = [self._feed(layer, i, parts, group) for i in range(len(layer.inputs))]
        blob = layer.outputs[0]
        names = tuple(self._fresh(f"{blob}_slice{i}") for i in range(len(parts)))
        for i, part in enumerate(parts):
            name, blobs = self._fresh(f"{layer.name}_slice{i}"), tuple(feed[i] for feed in feeds)
            sliced = replace(part.layer, name=name, inputs=blobs, outputs=(names[i],), line=0)
            sources = tuple(Source(index, array) for array in part.arrays)
            self._emitted.append(_Emitted(sliced, group, i, sources, (index, i)))
        self._open[blob] = _Parts(layer, axis, cut.ranges, names, group, requantise)

    def finish(self) -> SlicedModel:
        for blob in list(self._open):
            self._join(blob)
        ordered = sorted(self._emitted, key=lambda emitted: (emitted.group, emitted.slice_index))
        # a layer outside a group may stand between what the group reads and writes
        final = [ordered[i] for i in Model(tuple(emitted.layer for emitted in ordered)).topological_order()]
        place = {emitted.of_cut: i for i, emitted in enumerate(final) if emitted.of_cut}
        return SlicedModel(
            Model(tuple(emitted.layer for emitted in final)),
            tuple(emitted.sources for emitted in final),
            tuple(
                CutLayer(cut, axis.exact, tuple(place[cut.layer_index, i] for i in range(len(cut.ranges))))
                for cut, axis in self._cuts
            ),
        )

    def _fits(self, input_index: int, blob: str, parts: Sequence[LayerSlice]) -> bool:
        """Whether each slice reads just the slice of `blob` that has its number."""
        made = self._open.get(blob)
        if made is None or made.requantise or len(self._model.consumers[blob]) != 1:
            return False
        return _ranges_read(input_index, made.axis.blob_axis, parts) == made.ranges

    def _feed(self, layer: Layer, input_index: int, parts: Sequence[LayerSlice], group: int) -> tuple[str, ...]:
        """Names of the blobs the slices read as their input `input_index`."""
        blob = layer.inputs[input_index]
        if self._fits(input_index, blob, parts):
            return self._open.pop(blob).names
        self._join(blob)
        names = tuple(self._fresh(f"{layer.name}_in{input_index}_{i}") for i in range(len(parts)))
        blob_axis = next((t.blob_axis for t in parts[0].inputs if t.input_index == input_index), None)
        ranges = _ranges_read(input_index, blob_axis, parts) if blob_axis else None
        if blob_axis is None or ranges is None:
            self._emit("Split", f"{layer.name}_split{input_index}", (blob,), names, group)
            return names
        number = _AXIS_NUMBER[blob_axis]
        if [0, *(end for _, end in ranges[:-1])] == [begin for begin, _ in ranges]:
            sizes = tuple(end - begin for begin, end in ranges)
            self._emit("Slice", f"{layer.name}_cut{input_index}", (blob,), names, group, slices=sizes, axis=number)
            return names
        copies = tuple(self._fresh(f"{layer.name}_whole{input_index}_{i}") for i in range(len(parts)))
        self._emit("Split", f"{layer.name}_split{input_index}", (blob,), copies, group)
        for i, (begin, end) in enumerate(ranges):
            crop = {"starts": (begin,), "ends": (end,), "axes": (number,)}
            self._emit("Crop", f"{layer.name}_crop{input_index}_{i}", (copies[i],), (names[i],), group, i, **crop)
        return names

    def _join(self, blob: str) -> None:
        """Makes `blob` whole if it is in slices."""
        parts = self._open.pop(blob, None)
        if parts is None:
            return
        name, joined = parts.layer.name, blob if parts.requantise is None else self._fresh(f"{blob}_joined")
        if parts.axis.blob_axis == "sum":
            join = with_named_params(Layer("Eltwise", name, parts.names, (joined,)), op_type=_ELTWISE_SUM)
        else:
            axis = _AXIS_NUMBER[parts.axis.blob_axis]
            join = with_named_params(Layer("Concat", name, parts.names, (joined,)), axis=axis)
        self._emitted.append(_Emitted(join, parts.group, _LAST))
        if parts.requantise:
            quantize = with_named_params(
                Layer("Quantize", self._fresh(f"{name}_int8"), (joined,), (blob,)), scale_data_size=1
            )
            self._emitted.append(_Emitted(quantize, parts.group, _LAST, (parts.requantise,)))
        hints = parts.layer.params.get(HINTS)
        if hints:  # whoever reads the blob chooses a kernel by its shape, which is what it was
            last = self._emitted[-1]
            self._emitted[-1] = replace(last, layer=last.layer.with_params({HINTS: hints.value}))

    def _emit(
        self,
        kind: str,
        name: str,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        group: int,
        slice_index: int = _FIRST,
        **params: int | tuple[int, ...],
    ) -> None:
        layer = with_named_params(Layer(kind, self._fresh(name), inputs, outputs), **params)
        self._emitted.append(_Emitted(layer, group, slice_index))

    def _fresh(self, name: str) -> str:
        """`name`, changed as far as it is taken or longer than ncnn reads."""
        short = name.encode("utf-8", "surrogateescape")[-_MAX_NAME_BYTES:].decode("utf-8", "ignore")
        candidate, number = short, 1
        while candidate in self._names:
            number += 1
            candidate = f"{short}_{number}"
        self._names.add(candidate)
        return candidate


def _ranges_read(input_index: int, blob_axis: str, parts: Sequence[LayerSlice]) -> tuple[tuple[int, int], ...] | None:
    """What each slice reads of an input along `blob_axis`, or None when it is not cut so."""
    found = [
        (taken.begin, taken.end)
        for part in parts
        for taken in part.inputs
        if (taken.input_index, taken.blob_axis) == (input_index, blob_axis)
    ]
    return tuple(found) if len(found) == len(parts) else None


def _dequantising(part: LayerSlice) -> LayerSlice:
    """The slice of a requantising convolution with its output left float32, and so without its last array."""
    term = int_params(part.layer)["int8_scale_term"] - _REQUANTISES
    return replace(part, layer=with_named_params(part.layer, int8_scale_term=term), arrays=part.arrays[:-1])
