"""The two vehicles that execute a plan: layers on their own, or one stock ncnn.Net."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from flexnn_ncnn.records.plan import Plan
from flexnn_ncnn.runtime import native
from flexnn_ncnn.runtime.executor import Executor
from flexnn_ncnn.runtime.inputs import checked_inputs
from flexnn_ncnn.runtime.memory import heap
from flexnn_ncnn.runtime.memory.memory_limits import MemoryLimits
from flexnn_ncnn.runtime.trace import Trace
from flexnn_ncnn.runtime.weights.resident import ResidentLayers

__all__ = ["StockVehicle", "Vehicle", "open_plan"]


class StockVehicle:
    """A plan whose budget holds everything: stock ncnn as it is, every weight resident.

    Args:
        plan: of vehicle "net".
        param_path, bin_path: the model.

    Raises:
        NcnnError: ncnn cannot load it.
    """

    def __init__(self, plan: Plan, param_path: str | os.PathLike[str], bin_path: str | os.PathLike[str]) -> None:
        self.plan = plan
        self.trace = Trace()
        self._net = native.StockNet(os.fspath(param_path), os.fspath(bin_path), plan.options)

    def run(
        self, inputs: Mapping[str, npt.NDArray[Any]], hand_out: native.HandOut = native.mat_to_array
    ) -> dict[str, Any]:
        """One inference; arguments, result and errors as `Executor.run`."""
        begin = time.perf_counter()
        self.trace.restart()
        results = self._net.run(checked_inputs(self.plan.inputs, inputs), self.plan.outputs, hand_out)
        self.trace.seconds = time.perf_counter() - begin
        return results

    @property
    def overflows(self) -> dict[int, int]:
        """As of `Executor`: there is no scratch that could be too small."""
        return {}

    def hand_over(self) -> ResidentLayers:
        """Free the network; nothing of it can be used layer by layer."""
        self.close()
        return ResidentLayers()

    def close(self) -> None:
        """Free the network and give the memory back to the system."""
        with heap.shrinking():
            self._net.close()
        heap.trim()

    def __enter__(self) -> StockVehicle:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


Vehicle = Executor | StockVehicle


def open_plan(
    plan: Plan,
    param_path: str | os.PathLike[str],
    bin_path: str | os.PathLike[str],
    kept: ResidentLayers | None = None,
) -> Vehicle:
    """Load what a plan keeps resident, in the vehicle it names.

    Args:
        plan: what to do.
        param_path, bin_path: the model.
        kept: layers from another vehicle's `hand_over`: those the plan wants need not be loaded, the others are closed.

    Raises:
        ModelFormatError: the files cannot be read, or are not the plan's.
        NcnnError: ncnn refuses a layer.
    """
    if plan.vehicle == "layers":
        return Executor(plan, bin_path, kept, room_bytes=_page_cache_room_bytes(plan))
    if kept is not None:
        kept.close()
    return StockVehicle(plan, param_path, bin_path)


def _page_cache_room_bytes(plan: Plan) -> int | None:
    """How much page cache there may be beside what the plan holds; None where the system does not tell."""
    memory = MemoryLimits().read() if plan.streamed_bytes and plan.page_cache == "mmap" else None
    return None if memory is None else memory.available_bytes - plan.predicted_peak_bytes
