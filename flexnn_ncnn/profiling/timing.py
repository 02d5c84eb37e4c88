"""Passes through a network that time every kernel of every layer where it runs.

What a layer finds in the caches, and what it must fetch from memory, depends on what ran before it. So nothing is
timed on its own: in every pass all layers are loaded and computed in order, each with one of its kernels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy.typing as npt

from flexnn_ncnn.profiling.bench import Bench
from flexnn_ncnn.profiling.blobs import LiveBlobs
from flexnn_ncnn.profiling.compute import Computed, compute_layer
from flexnn_ncnn.profiling.facts import LayerFacts, ProfileLimits, Sample

__all__ = ["Timings", "rounds_within", "time_layers"]


class Timings:
    """Samples of every kernel; those of layers that are alike count together.

    Attributes:
        samples: of all layers.
        convert_seconds: by index of the layer.
    """

    def __init__(self) -> None:
        self._passes: dict[tuple[Hashable, str, int], dict[int, list[Sample]]] = defaultdict(lambda: defaultdict(list))
        self.convert_seconds: dict[int, list[float]] = defaultdict(list)
        self.samples: list[Sample] = []

    def add(self, done: int, facts: LayerFacts, number: int, computed: Computed) -> None:
        """Add what one layer took in pass `done` with its kernel of this number."""
        self.convert_seconds[facts.index].append(computed.convert_seconds)
        for sample in computed.samples:
            kernel = facts.kernels[number % len(facts.kernels)].kernel
            self._passes[facts.alike, kernel, sample.units][done].append(sample)
            self.samples.append(sample)

    def of(self, facts: LayerFacts, kernel: str, units: int) -> list[list[Sample]]:
        """Samples of parts of `units` units, pass by pass."""
        return list(self._passes[facts.alike, kernel, units].values())


def rounds_within(layers: Sequence[LayerFacts], seconds: float, limits: ProfileLimits) -> int:
    """How often to time every kernel.

    Args:
        layers: the network.
        seconds: what computing it once took.
        limits: what it may cost.
    """
    passes = _kernel_count(layers)
    wanted = int(limits.timing_seconds / max(1e-9, seconds * passes))
    return max(limits.least_rounds, min(limits.most_rounds, wanted))


def time_layers(
    bench: Bench,
    layers: Sequence[LayerFacts],
    inputs: Mapping[str, npt.NDArray[Any]],
    rounds: int,
    progress: Callable[[int, int], None] | None,
) -> Timings:
    """Time all layers with all their kernels, `rounds` times.

    Args:
        bench: what measurements share.
        layers: in execution order.
        inputs: an array per input blob.
        rounds: at least 1.
        progress: called with (passes done, passes in all).
    """
    timings, passes = Timings(), _kernel_count(layers)
    bench.begin_timing()
    for done in range(rounds * passes):
        blobs = LiveBlobs(bench.model.model, inputs, bench)
        for facts in layers:
            timings.add(done, facts, done % passes, compute_layer(bench, facts, done % passes, blobs, timed=True))
            blobs.passed(facts.layer)
        if progress:
            progress(done + 1, rounds * passes)
    return timings


def _kernel_count(layers: Sequence[LayerFacts]) -> int:
    return max((len(facts.kernels) for facts in layers), default=1) or 1
