"""What layers do inside, measured as layers of their own: a network of the inner layers alone, on values made up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from flexnn_ncnn.profiling.bench import Bench
from flexnn_ncnn.profiling.facts import ProfileLimits
from flexnn_ncnn.profiling.profiler import Progress, measured_layers
from flexnn_ncnn.records.profile import LayerProfile, ModelProfile
from param_tools.expansion import can_expand, expansion
from param_tools.graph import Model
from param_tools.model_io import NcnnModel

__all__ = ["with_expansions"]


def with_expansions(
    profile: ModelProfile, model: NcnnModel, limits: ProfileLimits | None = None, progress: Progress | None = None
) -> ModelProfile:
    """A profile with the inner layers of every layer that can be expanded.

    Layers that differ in their weights alone are measured once.

    Args:
        profile: of the model.
        model: its files.
        limits: what it may cost.
        progress: called with (what, done, of).

    Raises:
        ProfileError: an inner layer cannot be run on its own.
    """
    limits = limits or ProfileLimits()
    known: dict[object, tuple[LayerProfile, ...]] = {}
    found, bound_bytes, peak_bytes = [], profile.bound_bytes, profile.peak_bytes
    for layer in profile.layers:
        in_file = model.model.layers[layer.index]
        if not can_expand(in_file):
            continue
        files = expansion(model, layer.index)
        encodings = tuple(array.encoding for array in model.weights.arrays[layer.index])
        alike = (tuple(in_file.params.items()), encodings, layer.input_layouts, _reads(in_file.inputs))
        if alike not in known:
            known[alike], is_limited, held_bytes = _measured(files, layer, profile, limits, progress)
            bound_bytes = max(bound_bytes, (limits.bound_bytes or 0) if is_limited else 0)
            peak_bytes = max(peak_bytes, held_bytes)
        found.append(tuple(_renamed(one, layer.index, files.model) for one in known[alike]))
    return replace(profile, expansions=tuple(found), bound_bytes=bound_bytes, peak_bytes=peak_bytes)


def _reads(blobs: tuple[str, ...]) -> tuple[int, ...]:
    """Which inputs are one blob, whatever its name."""
    return tuple(blobs.index(blob) for blob in blobs)


def _measured(
    files: NcnnModel, layer: LayerProfile, profile: ModelProfile, limits: ProfileLimits, progress: Progress | None
) -> tuple[tuple[LayerProfile, ...], bool, int]:
    """The inner layers of a layer, whether the bound on memory made them be cut finer, and what measuring them held."""
    # zeros would hide what a kernel reads
    values = np.random.default_rng(0)
    inputs = {
        blob: values.standard_normal(layout.numpy_shape, np.float32)
        for blob, layout in zip(layer.inputs, layer.input_layouts, strict=True)
    }
    bench = Bench(files, profile.options, limits)
    try:
        layers, _, is_limited = measured_layers(bench, inputs, profile, progress)
        bench.room.note_peak()
    finally:
        bench.close()
    return layers, is_limited, bench.room.peak_bytes


def _renamed(one: LayerProfile, index: int, model: Model) -> LayerProfile:
    """A measured inner layer as that of layer `index`, which `model` is the expansion of."""
    layer = model.layers[one.index]
    return replace(one, index=index, inner=one.index, name=layer.name, inputs=layer.inputs, outputs=layer.outputs)
