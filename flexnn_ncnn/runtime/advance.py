"""Layers that a larger budget will keep, loaded one by one while the plan in force goes on."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator

from flexnn_ncnn.records.plan import Part, Plan, Stage, Step
from flexnn_ncnn.runtime import native
from flexnn_ncnn.runtime.memory import heap
from flexnn_ncnn.runtime.memory.process_memory import resident_bytes
from flexnn_ncnn.runtime.weights.makers import Makers
from flexnn_ncnn.runtime.weights.resident import LayerKey, ResidentLayers, resident_key, resident_parts
from flexnn_ncnn.runtime.weights.weight_source import WeightSource

__all__ = ["SLACK_BYTES", "LoadAhead"]

SLACK_BYTES = 2_000_000  # for the plan itself, and what Python takes while it reads it


class LoadAhead:
    """Loads what a plan keeps and the one in force does not: what takes most memory first, while there is most.

    Args:
        plan: the plan to come.
        bin_path: the weights.
        have: what is loaded already.
        room_bytes: what may be taken beside what the plan in force holds.

    Attributes:
        layers: what is loaded; whoever takes the plan into force takes them from here.
        seconds: how long that took.
    """

    def __init__(self, plan: Plan, bin_path: str | os.PathLike[str], have: Iterable[LayerKey], room_bytes: int) -> None:
        self.layers, self.seconds = ResidentLayers(), 0.0
        self._source = WeightSource(bin_path, plan.transformed_path, plan.page_cache)
        self._makers = Makers(plan, native.capabilities().unlocks_calls)
        self._missing = sorted(_missing(plan, have), key=lambda one: -one[-1].load_peak_bytes)
        self._room_bytes = room_bytes - SLACK_BYTES

    def load(self, seconds: float) -> bool:
        """Load for so long, one layer at least; while nothing is computed, so that what it takes can be told.

        Returns:
            Whether there is more to load that there is room for.
        """
        begin, before_bytes = time.perf_counter(), resident_bytes()
        taken_bytes = 0
        with heap.mapped_alone(heap.PAGE_BYTES), heap.plugged(), heap.shrinking():
            while self._missing:
                key, owner, part = self._missing.pop(0)
                if taken_bytes + part.load_peak_bytes > self._room_bytes:
                    continue
                self.layers.put(key, self._makers.of(owner, part)(self._source.load(part.pieces)))
                taken_bytes = max(0, resident_bytes() - before_bytes)
                if time.perf_counter() - begin >= seconds:
                    break
        self._room_bytes -= taken_bytes
        self.seconds += time.perf_counter() - begin
        return bool(self._missing)

    def close(self) -> None:
        """Free what nobody took; closing twice is fine."""
        self._missing = []
        self.layers.close()
        self._source.close()


def _missing(plan: Plan, have: Iterable[LayerKey]) -> Iterator[tuple[LayerKey, Step | Stage, Part]]:
    """Parts with weights that a plan keeps and that are not there, in the order of its steps."""
    there = Counter(have)
    for owner, part in resident_parts(plan):
        key = resident_key(plan, owner, part)
        if there[key] > 0:
            there[key] -= 1
        elif part.pieces:
            yield key, owner, part
