"""A model with some layers cut into slices, in standard layers only: stock ncnn runs the result.

A cut layer becomes Split (or Slice, or Split and Crop) -> slices -> Concat (or a sum). Where the next layer is
cut at the same places, the slices are connected directly and the join and the cut between them fall away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from param_tools.check import check_model
from param_tools.graph import Layer, Model
from param_tools.schema import LAYERS, array_specs, with_named_params
from param_tools.shapes import BlobShape
from param_tools.slicing.registry import axes, take
from param_tools.slicing.rule import HINTS, ArrayTake, LayerSlice, take_arrays

__all__ = ["Cut", "CutLayer", "SlicedModel", "Source", "apply_cuts"]

_AXIS_NUMBER = {"c": 0, "h": -2, "w": -1}  # negative ones count from the innermost, whatever the blob's dimensions
_MAX_NAME_BYTES = 255
_ELTWISE_SUM = 1
_UNSLICED = -1
_LAST = 1 << 30


@dataclass(frozen=True, slots=True)
class Cut:
    """What to do with one layer.

    Attributes:
        layer_index: its index in the model.
        axis: name of one of its axes.
        ranges: half-open ranges of units that cover the axis in order.
    """

    layer_index: int
    axis: str
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a weight array of the sliced model comes from.

    Attributes:
        layer_index: index of the layer in the original model.
        take: the part of its array.
    """

    layer_index: int
    take: ArrayTake


@dataclass(frozen=True, slots=True)
class CutLayer:
    """A cut that was made.

    Attributes:
        cut: what was asked for.
        exact: whether the slices are bit-identical to the whole.
        slices: indices of the slices in the sliced model, in the order of the ranges.
    """

    cut: Cut
    exact: bool
    slices: tuple[int, ...]


@dataclass(frozen=True)
class SlicedModel:
    """The result of `apply_cuts`.

    Attributes:
        model: the new layers, in execution order.
        sources: per layer, one per weight array in .bin order.
        cut_layers: the cuts, in the original's order.
    """

    model: Model
    sources: tuple[tuple[Source, ...], ...]
    cut_layers: tuple[CutLayer, ...]


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
    wanted = {cut.layer_index: cut for cut in cuts}
    if len(wanted) < len(cuts):
        raise ValueError("two cuts of one layer")
    check_model(model)
    builder = _Builder(model, shapes or {})
    for index, layer in enumerate(model.layers):
        cut = wanted.get(index)
        if cut is None or len(cut.ranges) < 2:
            builder.keep(index, layer)
        else:
            builder.cut(cut, layer)
    result = builder.finish()
    check_model(result.model)
    return result


@dataclass(frozen=True, slots=True)
class _Emitted:
    """A layer of the result, with what decides its place and weights.

    Layers of one group run slice by slice; `slice_index` is that of the slice, or before or after all of them.
    """

    layer: Layer
    group: int
    slice_index: int
    sources: tuple[Source, ...] = ()
    of_cut: tuple[int, int] | None = None  # original layer, slice


@dataclass(frozen=True, slots=True)
class _Parts:
    """The slices of a blob that nobody has joined yet."""

    blob_axis: str
    names: tuple[str, ...]
    ranges: tuple[tuple[int, int], ...]
    group: int
    joined_name: str


class _Builder:
    def __init__(self, model: Model, shapes: Mapping[str, BlobShape]) -> None:
        self._model = model
        self._shapes = shapes
        self._emitted: list[_Emitted] = []
        self._open: dict[str, _Parts] = {}
        self._names = set(model.producers) | {layer.name for layer in model.layers}
        self._cuts: dict[int, tuple[Cut, bool]] = {}

    def keep(self, index: int, layer: Layer) -> None:
        for blob in layer.inputs:
            self._join(blob)
        self._emitted.append(_Emitted(layer, index, _UNSLICED, _whole_sources(index, layer)))

    def cut(self, cut: Cut, layer: Layer) -> None:
        known = tuple(self._shapes[blob] for blob in layer.inputs if blob in self._shapes)
        inputs = known if len(known) == len(layer.inputs) else ()
        parts = [take(layer, cut.axis, begin, end, inputs) for begin, end in cut.ranges]
        axis = next(axis for axis in axes(self._with_hints(layer), inputs) if axis.name == cut.axis)
        if [0, *(end for _, end in cut.ranges)] != [*(begin for begin, _ in cut.ranges), axis.units]:
            raise ValueError(f"layer {layer.name!r}: {cut.ranges} do not cover its {axis.units} {axis.name}")
        if len(layer.outputs) != 1:
            raise ValueError(f"layer {layer.name!r} has {len(layer.outputs)} outputs")
        self._cuts[cut.layer_index] = (cut, axis.exact)
        group = self._group_of(cut.layer_index, layer, parts)
        feeds = [self._feed(layer, i, parts, group) for i in range(len(layer.inputs))]
        blob = layer.outputs[0]
        names = tuple(self._fresh(f"{blob}_slice{i}") for i in range(len(parts)))
        for i, part in enumerate(parts):
            sliced = replace(
                part.layer,
                name=self._fresh(f"{layer.name}_slice{i}"),
                inputs=tuple(feed[i] for feed in feeds),
                outputs=(names[i],),
            )
            sources = tuple(Source(cut.layer_index, array) for array in part.arrays)
            self._emitted.append(_Emitted(sliced, group, i, sources, (cut.layer_index, i)))
        self._open[blob] = _Parts(axis.blob_axis, names, cut.ranges, group, layer.name)

    def finish(self) -> SlicedModel:
        for blob in list(self._open):
            self._join(blob)
        ordered = sorted(self._emitted, key=lambda emitted: (emitted.group, emitted.slice_index))
        order = Model(tuple(emitted.layer for emitted in ordered)).topological_order()
        final = [ordered[i] for i in order]
        places = {emitted.of_cut: i for i, emitted in enumerate(final) if emitted.of_cut}
        return SlicedModel(
            Model(tuple(emitted.layer for emitted in final)),
            tuple(emitted.sources for emitted in final),
            tuple(
                CutLayer(cut, exact, tuple(places[index, i] for i in range(len(cut.ranges))))
                for index, (cut, exact) in self._cuts.items()
            ),
        )

    def _with_hints(self, layer: Layer) -> Layer:
        """`layer` with shape hints when its input has some, which ncnn heeds too and which the slices will lack."""
        producers = [self._model.layers[self._model.producers[blob]] for blob in layer.inputs]
        return layer.with_params({HINTS: ()}) if any(HINTS in producer.params for producer in producers) else layer

    def _group_of(self, index: int, layer: Layer, parts: Sequence[LayerSlice]) -> int:
        """The group whose slices this layer's continue, or a new one."""
        for i, blob in enumerate(layer.inputs):
            if self._continues(blob, i, parts):
                return self._open[blob].group
        return index

    def _continues(self, blob: str, input_index: int, parts: Sequence[LayerSlice]) -> bool:
        """Whether each slice reads exactly the slice of `blob` with its number."""
        produced = self._open.get(blob)
        if produced is None or produced.blob_axis == "sum" or len(self._model.consumers[blob]) != 1:
            return False
        return _ranges_read(input_index, produced.blob_axis, parts) == produced.ranges

    def _feed(self, layer: Layer, input_index: int, parts: Sequence[LayerSlice], group: int) -> tuple[str, ...]:
        """Names of the blobs the slices read as their input `input_index`."""
        blob = layer.inputs[input_index]
        if self._continues(blob, input_index, parts):
            return self._open.pop(blob).names
        self._join(blob)
        taken = next((t for t in parts[0].inputs if t.input_index == input_index), None)
        names = tuple(self._fresh(f"{layer.name}_in{input_index}_{i}") for i in range(len(parts)))
        if taken is None:
            self._emit("Split", f"{layer.name}_split{input_index}", (blob,), names, group)
            return names
        ranges = _ranges_read(input_index, taken.blob_axis, parts)
        assert ranges is not None
        number = _AXIS_NUMBER[taken.blob_axis]
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
        if parts.blob_axis == "sum":
            self._emit("Eltwise", parts.joined_name, parts.names, (blob,), parts.group, _LAST, op_type=_ELTWISE_SUM)
        else:
            axis = _AXIS_NUMBER[parts.blob_axis]
            self._emit("Concat", parts.joined_name, parts.names, (blob,), parts.group, _LAST, axis=axis)

    def _emit(
        self,
        kind: str,
        name: str,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        group: int,
        slice_index: int = _UNSLICED,
        **params: int | tuple[int, ...],
    ) -> None:
        layer = with_named_params(Layer(kind, name, inputs, outputs), **params)
        self._emitted.append(_Emitted(layer, group, slice_index))

    def _fresh(self, name: str) -> str:
        """`name`, changed as far as it is taken or longer than ncnn reads."""
        short = name.encode("utf-8", "surrogateescape")[-(_MAX_NAME_BYTES - 10) :].decode("utf-8", "surrogateescape")
        candidate, number = short, 1
        while candidate in self._names:
            number += 1
            candidate = f"{short}_{number}"
        self._names.add(candidate)
        return candidate


def _ranges_read(input_index: int, blob_axis: str, parts: Sequence[LayerSlice]) -> tuple[tuple[int, int], ...] | None:
    """What each slice reads of an input along `blob_axis`, or None when it is not cut so."""
    found = []
    for part in parts:
        ranges = [(t.begin, t.end) for t in part.inputs if (t.input_index, t.blob_axis) == (input_index, blob_axis)]
        if not ranges:
            return None
        found.append(ranges[0])
    return tuple(found)


def _whole_sources(index: int, layer: Layer) -> tuple[Source, ...]:
    if layer.type not in LAYERS:
        return ()
    return tuple(Source(index, take) for take in take_arrays(array_specs(layer), {}, 0, 0))
