"""The part of a network that some blobs suffice for, or that some blobs need."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from param_tools.errors import FlexnnError
from param_tools.graph import Layer, Model

__all__ = ["Excerpt", "excerpt"]


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Some layers of a model, as a model.

    Attributes:
        model: the layers, in the model's order; blobs keep their names.
        indices: per layer its index in the model it was taken from, -1 for an Input made in place of what computes a
            blob.
    """

    model: Model
    indices: tuple[int, ...]


def excerpt(model: Model, *, feeds: Collection[str] | None = None, outputs: Collection[str] | None = None) -> Excerpt:
    """The layers of `model` that can be computed from `feeds` and are needed for `outputs`.

    Args:
        model: the graph.
        feeds: blobs given from outside, inputs or not; None for the model's inputs, whether they are needed or not.
        outputs: blobs wanted; None for all that can be computed.

    Raises:
        FlexnnError: the model has no such blob, or `feeds` do not suffice for one of `outputs`.
    """
    for blob in (*(feeds or ()), *(outputs or ())):
        if blob not in model.producers:
            raise FlexnnError(f"the network has no blob {blob!r}")
    given = frozenset(model.input_blobs if feeds is None else feeds)
    known = _computable(model, given)
    missing = sorted(set(outputs or ()) - known)
    if missing:
        raise FlexnnError(
            f"blob {missing[0]!r} cannot be computed from {', '.join(sorted(given)) or 'nothing'}",
            hint=f"the network reads {', '.join(model.input_blobs)}",
        )
    wanted = known if outputs is None else _needed(model, given, outputs)
    return _cut(model, given & wanted, wanted)


def _computable(model: Model, given: Collection[str]) -> set[str]:
    """Every blob that `given` suffice for, themselves included."""
    known = set(given)
    for index in model.topological_order():
        layer = model.layers[index]
        if layer.type != "Input" and known.issuperset(layer.inputs):
            known.update(layer.outputs)
    return known


def _needed(model: Model, given: Collection[str], outputs: Iterable[str]) -> set[str]:
    """Every blob on the way from `given` to `outputs`, both included."""
    waiting, seen = list(outputs), set(outputs)
    while waiting:
        blob = waiting.pop()
        if blob not in given:
            fresh = set(model.layers[model.producers[blob]].inputs) - seen
            seen |= fresh
            waiting.extend(fresh)
    return seen


def _cut(model: Model, given: Collection[str], wanted: Collection[str]) -> Excerpt:
    """The layers that make `wanted`, with an Input for each of `given` that a layer would compute."""
    layers: list[Layer] = []
    indices: list[int] = []
    for blob in sorted(given, key=lambda blob: model.producers[blob]):
        if model.layers[model.producers[blob]].type != "Input":
            layers.append(Layer("Input", blob, (), (blob,)))
            indices.append(-1)
    for index, layer in enumerate(model.layers):
        made = [blob for blob in layer.outputs if blob in wanted and (layer.type == "Input" or blob not in given)]
        if not made:
            continue
        # a Split makes only what is read; any other layer makes all its outputs, and one that is given is another blob
        made += [] if layer.type == "Split" else [blob for blob in layer.outputs if blob not in made]
        outputs = tuple(
            f"{blob} (not used)" if blob in given and layer.type != "Input" else blob
            for blob in layer.outputs
            if blob in made
        )
        layers.append(layer if outputs == layer.outputs else replace(layer, outputs=outputs, raw=""))
        indices.append(index)
    return Excerpt(Model(tuple(layers)), tuple(indices))
