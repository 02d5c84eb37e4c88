"""A process of its own that runs a model and tells time and memory: `python -m flexnn_ncnn.runtime.worker`.

The idle process is measured after all imports and before the model is touched; from then on the peak of the resident
set counts, the inputs with it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt

from flexnn_ncnn.records.formats import read_plan
from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.runtime import native
from flexnn_ncnn.runtime.memory import heap
from flexnn_ncnn.runtime.memory.process_memory import GrowthMeter
from flexnn_ncnn.runtime.serving import Progress, serve
from flexnn_ncnn.runtime.vehicles import open_plan

__all__ = ["main"]

_Arrays = Mapping[str, npt.NDArray[Any]]
_Run = Callable[[_Arrays], dict[str, npt.NDArray[Any]]]


class _Worker:
    """The state between requests."""

    def __init__(self) -> None:
        self._run: _Run | None = None
        self._counters: Callable[[], dict[str, Any]] = dict
        self._inputs: dict[str, npt.NDArray[Any]] = {}
        self._outputs: dict[str, npt.NDArray[Any]] = {}
        self._meter: GrowthMeter | None = None
        self._memory = ExitStack()

    def open(self, request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        """Load the inputs and the model: a plan with its .bin, or stock ncnn, whose layers may be told a kernel.

        With "return_memory" whatever is freed goes back to the system at once, as it does without a plan for it.
        """
        self._meter = GrowthMeter()
        self._inputs = {blob: np.load(path) for blob, path in request["inputs"].items()}
        begin = time.perf_counter()
        if "plan" in request:
            vehicle = open_plan(read_plan(request["plan"]), request["param"], request["bin"])
            self._run = vehicle.run
            resident = vehicle.plan.resident_bytes
            self._counters = lambda: {
                "streamed_bytes": vehicle.trace.streamed_bytes,
                "resident_bytes": resident,
                "overflows": list(vehicle.overflows.items()),
            }
        else:
            options, kernel = RunOptions(**request["options"]), request.get("kernel", "default")
            net = native.StockNet(request["param"], request["bin"], options, kernel)
            outputs = tuple(request["outputs"])
            self._run = lambda inputs: net.run(inputs, outputs)
        if request.get("return_memory"):
            self._memory.enter_context(heap.return_freed_memory())
        seconds = time.perf_counter() - begin
        return {"load_seconds": seconds, "exact": self._meter.exact, "peak_bytes": self._meter.peak_bytes()}

    def run(self, request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        """One inference."""
        assert self._run is not None
        assert self._meter is not None
        self._outputs = {}
        begin = time.perf_counter()
        self._outputs = self._run(self._inputs)
        seconds = time.perf_counter() - begin
        return {"seconds": seconds, "peak_bytes": self._meter.peak_bytes(), **self._counters()}

    def save(self, request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        """Write the outputs of the last inference, each to a .npy file."""
        for blob, path in request["outputs"].items():
            np.save(path, self._outputs[blob])
        return {}


def main() -> int:
    """Answer requests until stdin ends."""
    worker = _Worker()
    return serve({"idle": lambda *_: {}, "open": worker.open, "run": worker.run, "save": worker.save})


if __name__ == "__main__":
    sys.exit(main())
