"""A network as ncnn describes it: frozen layers joined by named blobs.

Layer names are not unique in real files; blob names are. Layers are therefore
identified by their index in `Model.layers`, blobs by their name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from heapq import heappop, heappush
from types import MappingProxyType
from typing import TYPE_CHECKING

from param_tools.errors import ModelFormatError

if TYPE_CHECKING:
    import networkx

__all__ = ["Layer", "Lifetime", "Model", "ParamValue", "Scalar", "describe_cycle"]

Scalar = int | float | str
_NO_PARAMS: Mapping[int, ParamValue] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ParamValue:
    """One parameter of a layer, with the text it was read from.

    Attributes:
        value: a number, a string, or a tuple of numbers for an array.
        raw: the token exactly as written in the file ("0=64", "-23300=2,1,2"),
            or "" when the value is ours; a writer repeats it verbatim.
    """

    value: Scalar | tuple[int | float, ...]
    raw: str = field(default="", compare=False)


@dataclass(frozen=True)
class Layer:
    """One line of a .param file.

    Attributes:
        type: ncnn's layer type, such as "Convolution".
        name: the layer's name; not unique within a model.
        inputs: names of the blobs it reads, in ncnn's order.
        outputs: names of the blobs it writes.
        params: parameter id -> value; absent ids have ncnn's default.
        line: 1-based line it was read from, 0 for a layer made by us.
        raw: that line as written; a writer repeats it while it still says the same as the other fields.
    """

    type: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: Mapping[int, ParamValue] = field(default_factory=lambda: _NO_PARAMS)
    line: int = field(default=0, compare=False)
    raw: str = field(default="", compare=False, repr=False)

    def int_param(self, param_id: int, default: int = 0) -> int:
        """The integer parameter `param_id`, or `default` when the file leaves it out."""
        value = self._scalar(param_id, default)
        if isinstance(value, float):  # ncnn would silently take its default
            raise self._misread(param_id, "an integer", value)
        return int(value)

    def float_param(self, param_id: int, default: float = 0.0) -> float:
        """The parameter `param_id` as a float, or `default`."""
        return float(self._scalar(param_id, default))

    def array_param(self, param_id: int, default: tuple[int | float, ...] = ()) -> tuple[int | float, ...]:
        """The array parameter `param_id`, or `default`."""
        found = self.params.get(param_id)
        if found is None:
            return default
        if not isinstance(found.value, tuple):  # ncnn would silently take an empty array
            raise self._misread(param_id, "an array", found.value, hint=f"write {param_id}={found.value},")
        return found.value

    def with_params(self, changes: Mapping[int, Scalar | tuple[int | float, ...] | None]) -> Layer:
        """This layer with parameters replaced, or removed where the new value is None."""
        merged = dict(self.params)
        for param_id, value in changes.items():
            if value is None:
                merged.pop(param_id, None)
            else:
                merged[param_id] = ParamValue(value)
        return replace(self, params=MappingProxyType(dict(sorted(merged.items()))))

    def _scalar(self, param_id: int, default: int | float) -> int | float:
        found = self.params.get(param_id)
        if found is None:
            return default
        if isinstance(found.value, (str, tuple)):
            raise self._misread(param_id, "a number", found.value)
        return found.value

    def _misread(self, param_id: int, wanted: str, value: object, *, hint: str = "") -> ModelFormatError:
        text = f"layer {self.name!r} ({self.type}): parameter {param_id} should be {wanted}, not {value!r}"
        return ModelFormatError(text, line=self.line or None, hint=hint)


@dataclass(frozen=True, slots=True)
class Lifetime:
    """Half-open range of steps (layer indices in execution order) during which a blob exists."""

    begin: int
    end: int


@dataclass(frozen=True)
class Model:
    """The layers of a network in file order; every blob has exactly one producer.

    `param_tools.check.check_model` proves the invariants; parsed models hold them.
    """

    layers: tuple[Layer, ...]

    @cached_property
    def producers(self) -> Mapping[str, int]:
        """Blob name -> index of the layer that writes it."""
        return MappingProxyType({blob: i for i, layer in enumerate(self.layers) for blob in layer.outputs})

    @cached_property
    def consumers(self) -> Mapping[str, tuple[int, ...]]:
        """Blob name -> indices of the layers that read it, ascending."""
        found: dict[str, list[int]] = {blob: [] for blob in self.producers}
        for i, layer in enumerate(self.layers):
            for blob in layer.inputs:
                found.setdefault(blob, []).append(i)
        return MappingProxyType({blob: tuple(indices) for blob, indices in found.items()})

    def topological_order(self) -> tuple[int, ...]:
        """Layer indices with producers before consumers, in file order wherever that is valid.

        Linear, and without networkx, which would cost a running model more memory than the graph.

        Raises:
            ModelFormatError: the layers form a cycle; it names the blobs on it.
        """
        order = self._sorted_prefix()
        if len(order) < len(self.layers):
            raise ModelFormatError(describe_cycle(self.find_cycle()))
        return tuple(order)

    def find_cycle(self) -> tuple[str, ...]:
        """The blobs of one cycle in the direction of the data, the first repeated at the end; empty without one."""
        if len(self._sorted_prefix()) == len(self.layers):
            return ()
        import networkx

        blobs = [blob for _, _, blob in networkx.find_cycle(self.digraph())]
        return (*blobs, blobs[0])

    def digraph(self) -> networkx.MultiDiGraph:
        """The layers as a networkx graph, for its algorithms and for drawing.

        Nodes are layer indices with the attributes `type` and `name`; every blob is an edge from its producer to each
        reader, keyed by its name.
        """
        import networkx

        graph = networkx.MultiDiGraph()
        graph.add_nodes_from((i, {"type": layer.type, "name": layer.name}) for i, layer in enumerate(self.layers))
        graph.add_edges_from(
            (self.producers[blob], i, blob)
            for i, layer in enumerate(self.layers)
            for blob in layer.inputs
            if blob in self.producers
        )
        return graph

    def _sorted_prefix(self) -> list[int]:
        """Kahn's algorithm, lowest index first; short when there is a cycle."""
        missing = [sum(blob in self.producers for blob in layer.inputs) for layer in self.layers]
        ready = [i for i, count in enumerate(missing) if not count]
        order: list[int] = []
        while ready:
            i = heappop(ready)
            order.append(i)
            for blob in self.layers[i].outputs:
                if self.producers[blob] != i:
                    continue
                for consumer in self.consumers[blob]:
                    missing[consumer] -= 1
                    if not missing[consumer]:
                        heappush(ready, consumer)
        return order

    @cached_property
    def lifetimes(self) -> Mapping[str, Lifetime]:
        """Blob name -> the steps from its producer to its last reader; an output lives to the end."""
        end = len(self.layers)
        return MappingProxyType(
            {
                blob: Lifetime(begin, self.consumers[blob][-1] + 1 if self.consumers[blob] else end)
                for blob, begin in self.producers.items()
            }
        )

    @cached_property
    def input_blobs(self) -> tuple[str, ...]:
        """Names of the blobs the caller feeds: the outputs of Input layers."""
        return tuple(blob for layer in self.layers if layer.type == "Input" for blob in layer.outputs)

    @cached_property
    def output_blobs(self) -> tuple[str, ...]:
        """Names of the blobs nobody reads, in file order."""
        return tuple(blob for blob in self.producers if not self.consumers[blob])


def describe_cycle(blobs: tuple[str, ...]) -> str:
    """What is wrong with a model that has this cycle, in words; the middle of a long one is left out."""
    shown = [repr(blob) for blob in (blobs if len(blobs) <= 12 else (*blobs[:6], *blobs[-5:]))]
    if len(blobs) > 12:
        shown.insert(6, f"... ({len(blobs) - 11} more)")
    return f"the blobs {' -> '.join(shown)} form a cycle"
