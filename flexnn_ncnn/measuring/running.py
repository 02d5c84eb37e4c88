"""One inference of a model under a budget, in this process, with what it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from flexnn_ncnn.preparing.preparation import Progress, Request, prepare
from flexnn_ncnn.runtime.cpu import stay_on_one_cpu
from flexnn_ncnn.runtime.memory.process_memory import GrowthMeter
from flexnn_ncnn.runtime.vehicles import open_plan

__all__ = ["RunReport", "run_model"]


@dataclass(frozen=True)
class RunReport:
    """What `run_model` did.

    Attributes:
        budget_bytes: what the inference was allowed to hold beyond the idle process.
        threads: compute threads.
        predicted_peak_bytes: what the plan says it holds.
        peak_bytes: what it held: growth of the resident set's peak, loading included.
        peak_exact: whether the system tells that exactly; if not, `peak_bytes` is an upper bound.
        seconds: the inference.
        weights_streamed_bytes: weights read from the file during it.
        weights_resident_bytes: weights kept between inferences.
        outputs: blob name -> array.
    """

    budget_bytes: int
    threads: int
    predicted_peak_bytes: int
    peak_bytes: int
    peak_exact: bool
    seconds: float
    weights_streamed_bytes: int
    weights_resident_bytes: int
    outputs: Mapping[str, npt.NDArray[Any]] = field(repr=False)

    @property
    def within_budget(self) -> bool:
        """Whether the budget was kept, as far as can be told."""
        return not self.peak_exact or self.peak_bytes <= self.budget_bytes


def run_model(request: Request, inputs: Mapping[str, npt.NDArray[Any]], progress: Progress | None = None) -> RunReport:
    """Prepare, load and run a model once.

    Args:
        request: what to run, and within what.
        inputs: an array per input blob, float32 or int32, outermost axis first.
        progress: called with (what, done, of) while a plan is made.

    Raises:
        FlexnnError: as `prepare`.
    """
    if request.options.num_threads == 1:
        stay_on_one_cpu()
    meter = GrowthMeter()
    plan, _ = prepare(request, inputs, progress)
    meter.idle_again()
    with open_plan(plan, request.param_path, request.bin_path) as vehicle:
        outputs = vehicle.run(inputs)
        peak_bytes = meter.peak_bytes()
        return RunReport(
            budget_bytes=request.budget_bytes,
            threads=request.options.num_threads,
            predicted_peak_bytes=plan.predicted_peak_bytes,
            peak_bytes=peak_bytes,
            peak_exact=meter.exact,
            seconds=vehicle.trace.seconds,
            weights_streamed_bytes=vehicle.trace.streamed_bytes,
            weights_resident_bytes=plan.resident_bytes,
            outputs=outputs,
        )
