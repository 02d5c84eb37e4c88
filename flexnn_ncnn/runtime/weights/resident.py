"""Layers that stay loaded between inferences, and how one plan's are handed to the next."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.records.plan import Part, Plan, Stage, Step, WeightPiece
from flexnn_ncnn.runtime import native

__all__ = ["LayerKey", "ResidentLayers", "kept_weight_bytes", "resident_key", "resident_keys", "resident_parts"]

_Param = tuple[int, int | float | tuple[int | float, ...]]
LayerKey = tuple[str, RunOptions, str, str, bool, tuple[_Param, ...], str, tuple[WeightPiece, ...]]
"""All that decides what a loaded layer is: model, options, ncnn's type, kernel, whether raw weights stay, parameters,
where transformed weights are if it is they, and weights."""


def resident_key(plan: Plan, owner: Step | Stage, part: Part) -> LayerKey:
    """What a part of a step, or of a chain's stage, is loaded from."""
    transformed = f"{plan.transformed_path}:{part.transformed_count}" if part.transformed_count else ""
    what = owner.type, owner.kernel, owner.reads_raw, part.params
    return plan.model_id, plan.options, *what, transformed, part.pieces


def resident_parts(plan: Plan) -> Iterator[tuple[Step | Stage, Part]]:
    """What a plan keeps loaded, in the order of its steps."""
    for step in plan.steps:
        if step.resident and step.mode not in ("constant", "gather"):
            owners: tuple[Step | Stage, ...] = step.stages or (step,) * len(step.parts)
            yield from zip(owners, step.parts, strict=True)


def resident_keys(plan: Plan) -> Iterator[LayerKey]:
    """What that is loaded from."""
    return (resident_key(plan, owner, part) for owner, part in resident_parts(plan))


def kept_weight_bytes(layers: ResidentLayers, plan: Plan) -> tuple[int, int]:
    """Weights, as stored, of the layers that a plan keeps: of those that are here, and of all."""
    wanted = list(resident_keys(plan))
    here = Counter(layers.keys()) & Counter(wanted)
    return _stored_bytes(here.elements()), _stored_bytes(wanted)


def _stored_bytes(keys: Iterable[LayerKey]) -> int:
    return sum(piece.stored_bytes for key in keys for piece in key[-1])


class ResidentLayers:
    """Loaded layers by what they were loaded from; each belongs to who put it in or took it out last."""

    def __init__(self) -> None:
        self._layers: defaultdict[LayerKey, list[native.LoadedLayer]] = defaultdict(list)

    def keys(self) -> Iterator[LayerKey]:
        """What the layers were loaded from, each as often as it is here."""
        for key, layers in self._layers.items():
            yield from (key for _ in layers)

    def put(self, key: LayerKey, layer: native.LoadedLayer) -> None:
        """Keep a layer."""
        self._layers[key].append(layer)

    def take(self, key: LayerKey) -> native.LoadedLayer | None:
        """A layer that was loaded from `key`, no longer kept here; None if there is none."""
        found = self._layers.get(key)
        if not found:
            return None
        layer = found.pop()
        if not found:
            del self._layers[key]  # it holds on to parts of a plan
        return layer

    def absorb(self, others: ResidentLayers) -> None:
        """Take all layers of another collection, which is empty then."""
        for key, layers in others._layers.items():
            self._layers[key].extend(layers)
        others._layers.clear()

    def keep_only(self, wanted: Iterable[LayerKey]) -> None:
        """Close all layers but those of `wanted`, which may name a key several times."""
        counts = Counter(wanted)
        for key, layers in list(self._layers.items()):
            while len(layers) > counts[key]:
                layers.pop().close()
            if not layers:
                del self._layers[key]

    def detach(self) -> None:
        """Have no layer hold on to the memory it has computed in."""
        for layers in self._layers.values():
            for layer in layers:
                layer.compute_with(None)

    def close(self) -> None:
        """Close all layers."""
        self.keep_only(())
