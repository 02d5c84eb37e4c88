"""Passes through a network that time every kernel of every layer where it runs.

What a layer finds in the caches, and what it must fetch from memory, depends on what ran before it. So nothing is
timed on its own: in every pass layers are loaded and computed in order, each with one of its kernels.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy.typing as npt

from flexnn_ncnn.profiling.bench import Bench
from flexnn_ncnn.profiling.blobs import LiveBlobs
from flexnn_ncnn.profiling.compute import Computed, compute_layer, skip_layer
from flexnn_ncnn.profiling.facts import LayerFacts, Sample
from flexnn_ncnn.profiling.fit import lasting

__all__ = ["Timings", "time_layers"]

# of layers that are alike, those that are timed in a pass
_MOST_ALIKE = 4
# a round that leaves more than this of what the quietest passes took has told what there is to know
_SETTLED = 0.97


class Timings:
    """Samples of every kernel; those of layers that are alike count together.

    Attributes:
        samples: of all layers.
        seconds: all that was timed.
    """

    def __init__(self) -> None:
        self._passes: dict[tuple[Hashable, str, int], dict[int, list[Sample]]] = defaultdict(lambda: defaultdict(list))
        self._convert_seconds: dict[Hashable, float] = {}
        self.samples: list[Sample] = []
        self.seconds = 0.0

    def add(self, done: int, facts: LayerFacts, number: int, computed: Computed) -> None:
        """Add what one layer took in pass `done` with its kernel of this number."""
        earlier = self._convert_seconds.get(facts.alike, computed.convert_seconds)
        self._convert_seconds[facts.alike] = min(earlier, computed.convert_seconds)
        self.seconds += computed.seconds
        for sample in computed.samples:
            kernel = facts.kernels[number % len(facts.kernels)].kernel
            self._passes[facts.alike, kernel, sample.units][done].append(sample)
            self.samples.append(sample)

    def of(self, facts: LayerFacts, kernel: str, units: int) -> list[list[Sample]]:
        """Samples of parts of `units` units, pass by pass."""
        return list(self._passes[facts.alike, kernel, units].values())

    def convert_seconds(self, facts: LayerFacts) -> float:
        """The least that bringing a layer's inputs into the layouts it wants took."""
        return self._convert_seconds[facts.alike]

    def quietest_seconds(self) -> float:
        """What each kernel takes in its quietest pass, all kernels together."""
        kinds = self._passes.values()
        return sum(lasting([[one.seconds for one in found] for found in passes.values()]) for passes in kinds)


def time_layers(
    bench: Bench,
    layers: Sequence[LayerFacts],
    inputs: Mapping[str, npt.NDArray[Any]],
    progress: Callable[[int, int], None] | None,
) -> Timings:
    """Time all kernels of all layers until another round tells nothing new, or the limits are reached.

    Args:
        bench: what measurements share.
        layers: in execution order.
        inputs: an array per input blob.
        progress: called with (passes done, passes at most).
    """
    timings, limits, quietest = Timings(), bench.limits, math.inf
    computed = [_computed_in(layers, number) for number in range(_kernel_count(layers))]
    bench.begin_timing()
    most = limits.most_rounds * len(computed)
    for done in range(most):
        number = done % len(computed)
        if done and not number:
            before, quietest = quietest, timings.quietest_seconds()
            told = timings.seconds >= limits.timing_seconds or quietest > _SETTLED * before
            if told and done >= limits.least_rounds * len(computed):
                break
        if progress:
            progress(done, most)
        blobs = LiveBlobs(bench.model.model, inputs, bench)
        for i, facts in enumerate(layers):
            if i in computed[number]:
                timings.add(done, facts, number, compute_layer(bench, facts, number, blobs, timed=True))
            else:
                skip_layer(bench, facts, blobs)
            blobs.passed(facts.layer)
    if progress:
        progress(most, most)
    return timings


def _computed_in(layers: Sequence[LayerFacts], number: int) -> frozenset[int]:
    """The layers that are computed in a pass that times kernels of this number.

    Of layers that are alike a few tell enough. What runs before each of them is computed, too: it leaves in the caches
    what the layer finds there in a run.
    """
    found, times, before = set[int](), Counter[Hashable](), 0
    for i, facts in enumerate(layers):
        if len(facts.kernels) > number and times[facts.alike] < _MOST_ALIKE:
            times[facts.alike] += 1
            found |= {before, i}
        if not facts.kernels or facts.mode in ("gather", "constant"):
            found.add(i)
        else:
            before = i
    return frozenset(found)


def _kernel_count(layers: Sequence[LayerFacts]) -> int:
    return max((len(facts.kernels) for facts in layers), default=1) or 1
