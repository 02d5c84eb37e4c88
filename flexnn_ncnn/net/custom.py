"""Layers of a user's own types, computed between plans: to a plan their outputs are inputs of the network."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from flexnn_ncnn.errors import FlexnnError
from flexnn_ncnn.runtime import native
from param_tools.errors import UnsupportedLayerError
from param_tools.excerpt import excerpt
from param_tools.graph import Layer, Model

__all__ = ["CustomLayers", "LayerFailedError", "Registry"]

Registry = Mapping[str, tuple[Callable[[], Any], Callable[[Any], object]]]
"""Layer type -> what makes a layer of it, and what is told that it is not needed any more."""


class LayerFailedError(FlexnnError):
    """A custom layer that returned a code.

    Attributes:
        code: the code.
    """

    def __init__(self, layer: str, code: int) -> None:
        self.code = code
        super().__init__(f"custom layer {layer!r} returned {code}")


@dataclass(frozen=True)
class CustomLayers:
    """The custom layers of one model.

    Attributes:
        model: the network without them: each is an Input in its place; nothing where there are none.
        layers: them, in an order in which they can be computed.
        made: by name of the first output, what computes it.
    """

    model: Model
    layers: tuple[Layer, ...]
    made: Mapping[str, native.CustomLayer]

    @classmethod
    def of(cls, model: Model, registry: Registry, option: native.Option) -> CustomLayers:
        """The custom layers of `model`, made.

        Raises:
            UnsupportedLayerError: a type that neither ncnn nor `registry` has.
            NcnnError: a layer refuses its parameters.
        """
        for layer in model.layers:
            if layer.type not in registry and not native.is_layer_type(layer.type):
                raise UnsupportedLayerError(
                    f"layer {layer.name!r} is of the type {layer.type!r}, which the installed ncnn does not have",
                    hint="register_custom_layer before load_param adds types",
                )
        in_order = (model.layers[i] for i in model.topological_order())
        layers = tuple(layer for layer in in_order if layer.type in registry)
        made: dict[str, native.CustomLayer] = {}
        for layer in layers:
            params = [(i, p.value) for i, p in layer.params.items() if not isinstance(p.value, str)]
            made[layer.outputs[0]] = native.CustomLayer(layer.name, params, *registry[layer.type], option)
        if not layers:
            return cls(Model(()), (), {})
        rest = tuple(_fed(layer) if layer.type in registry else layer for layer in model.layers)
        return cls(Model(rest), layers, made)

    def needed(self, outputs: Iterable[str], given: Collection[str]) -> list[Layer]:
        """The layers to compute first, in order, where `given` is known already."""
        if not self.layers:
            return []
        missing, found = self._reads(outputs, given), []
        for layer in reversed(self.layers):
            if missing.intersection(layer.outputs):
                found.append(layer)
                missing |= self._reads(layer.inputs, given)
        return found[::-1]

    def compute(self, layer: Layer, mats: list[native.Mat]) -> dict[str, native.Mat]:
        """The outputs of a layer.

        Raises:
            LayerFailedError: it returned a code.
            Exception: whatever it raises.
        """
        code, tops = self.made[layer.outputs[0]].forward(mats, len(layer.outputs))
        if code or any(top.empty() for top in tops):
            raise LayerFailedError(layer.name, code or -100)
        return dict(zip(layer.outputs, tops, strict=True))

    def close(self) -> None:
        """Let go of the layers."""
        for made in self.made.values():
            made.close()

    def _reads(self, blobs: Iterable[str], given: Collection[str]) -> set[str]:
        """Inputs of the rest of the network that `blobs` are computed from."""
        feeds = {*given, *self.model.input_blobs}
        return set(excerpt(self.model, feeds=feeds, outputs=tuple(blobs)).model.input_blobs) - set(given)


def _fed(layer: Layer) -> Layer:
    return replace(layer, type="Input", inputs=(), params={}, raw="")
