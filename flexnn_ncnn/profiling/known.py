"""What an earlier profile of a model tells, whatever it is fed: how its layers load."""

from __future__ import annotations

from collections import Counter

from flexnn_ncnn.records.profile import KernelCost, ModelProfile
from param_tools.graph import Layer
from param_tools.slicing.rule import Axis

__all__ = ["KnownLoads"]


class KnownLoads:
    """Costs of loading, by layer and kernel.

    Args:
        profile: of the same model, machine and options, for inputs of other shapes; None where there is none.
    """

    def __init__(self, profile: ModelProfile | None) -> None:
        layers = profile.layers if profile else ()
        names = Counter(layer.name for layer in layers)
        self._layers = {layer.name: layer for layer in layers if names[layer.name] == 1 and layer.raw_bytes}

    def of(self, layer: Layer, raw_bytes: int, axis: Axis | None, kernel: str) -> KernelCost | None:
        """What is known of a kernel; None also where it takes memory from the heap while it computes."""
        found = self._layers.get(layer.name)
        units = axis.units if axis else 1
        if found is None or (found.type, found.raw_bytes, found.units) != (layer.type, raw_bytes, units):
            return None
        for cost in found.kernels:
            if cost.kernel == kernel and cost.run_heap_bytes.at(units) == 0:
                return cost
        return None
