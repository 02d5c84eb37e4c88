"""Stock ncnn and this package on the same input: time, memory, and whether they agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from flexnn_ncnn.errors import BudgetExceededError, MismatchError
from flexnn_ncnn.measuring.machine_load import LoadMeter, MachineLoad
from flexnn_ncnn.measuring.rounds import Contestant, Entrant, entrants, take_turns
from flexnn_ncnn.preparing.preparation import Progress, Request, prepare

__all__ = ["RELATIVE_TOLERANCE", "Comparison", "Measured", "MeasuredFlexnn", "compare_models"]

RELATIVE_TOLERANCE = 1e-3
"""Largest difference allowed, relative to the largest magnitude in an output."""

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Measured:
    """One side, measured in a process of its own.

    Attributes:
        latency_ms_median, latency_ms_min: of one inference, over the rounds after the warm-up.
        load_ms: opening the model, before the first inference.
        peak_bytes: growth of the resident set's peak over the idle process, loading and the first inference included.
    """

    latency_ms_median: float
    latency_ms_min: float
    load_ms: float
    peak_bytes: int


@dataclass(frozen=True)
class MeasuredFlexnn(Measured):
    """This package's side.

    Attributes:
        weights_streamed_bytes: read from the file in each inference.
        weights_resident_bytes: kept between inferences.
        predicted_peak_bytes: what the plan promised.
    """

    weights_streamed_bytes: int
    weights_resident_bytes: int
    predicted_peak_bytes: int


@dataclass(frozen=True)
class Comparison:
    """What `compare_models` found.

    Attributes:
        model: what the caller calls it.
        budget_bytes: the budget this package was given.
        threads: compute threads on either side.
        rounds: inferences on either side after one warm-up, taken in turn.
        machine: how busy it was with other things.
        stock, flexnn: the two sides.
        latency_ratio: flexnn's median latency over stock's.
        peak_exact: whether the system tells peaks exactly; if not, they are upper bounds and no budget is judged.
        max_abs_diff: largest difference between two values of any output.
        max_rel_diff: the same, relative to the largest magnitude in that output of stock's.
        top1_equal: whether every row of scores, the last axis of an output that is a vector or a matrix, has its
            largest value at the same place; true where there is no such output.
    """

    model: str
    budget_bytes: int
    threads: int
    rounds: int
    machine: MachineLoad
    stock: Measured
    flexnn: MeasuredFlexnn
    latency_ratio: float
    peak_exact: bool
    max_abs_diff: float
    max_rel_diff: float
    top1_equal: bool

    @property
    def outputs_agree(self) -> bool:
        """Whether the outputs are the same within the tolerance."""
        return self.top1_equal and self.max_rel_diff <= RELATIVE_TOLERANCE

    @property
    def within_budget(self) -> bool:
        """Whether the budget was kept, as far as can be told."""
        return not self.peak_exact or self.flexnn.peak_bytes <= self.budget_bytes

    def check(self) -> None:
        """Proves that outputs agree and the budget was kept.

        Raises:
            MismatchError: they do not agree.
            BudgetExceededError: it was not kept.
        """
        if not self.outputs_agree:
            top1 = "" if self.top1_equal else " and another top-1"
            raise MismatchError(
                f"the outputs of {self.model} differ from stock ncnn's: by {self.max_rel_diff:.2g} of the largest "
                f"magnitude{top1}, where {RELATIVE_TOLERANCE:g} is allowed"
            )
        if not self.within_budget:
            raise BudgetExceededError(budget_bytes=self.budget_bytes, peak_bytes=self.flexnn.peak_bytes)


def compare_models(
    request: Request, inputs: Arrays, rounds: int, progress: Progress | None = None, *, model: str = ""
) -> Comparison:
    """Run both on `inputs`, each in a child process, round by round in turn after one warm-up each.

    Args:
        request: the model, the budget and the options both compute with.
        inputs: an array per input blob, float32 or int32, outermost axis first.
        rounds: at least 1.
        progress: called with (what, done, of).
        model: what to call it; the .param's path where empty.

    Raises:
        FlexnnError: as `prepare`, or stock ncnn cannot run the model.
    """
    meter = LoadMeter()
    plan, plan_path = prepare(request, inputs, progress)
    threads = request.options.num_threads
    files = {"param": str(request.param_path), "bin": str(request.bin_path)}
    contestants = (
        Contestant("stock ncnn", {**files, "options": asdict(request.options), "outputs": plan.outputs}),
        Contestant("running the plan", {**files, "plan": str(plan_path)}),
    )
    with entrants(contestants, inputs, threads) as (stock, flexnn):
        take_turns((stock, flexnn), meter, rounds=rounds, progress=progress)
        stock_outputs, flexnn_outputs = stock.outputs(plan.outputs), flexnn.outputs(plan.outputs)
    stock_side = Measured(**_summary(stock))
    flexnn_side = MeasuredFlexnn(
        **_summary(flexnn),
        weights_streamed_bytes=flexnn.runs[-1]["streamed_bytes"],
        weights_resident_bytes=flexnn.runs[-1]["resident_bytes"],
        predicted_peak_bytes=plan.predicted_peak_bytes,
    )
    differences = [_difference(stock_outputs[blob], flexnn_outputs[blob]) for blob in plan.outputs]
    return Comparison(
        model=model or str(request.param_path),
        budget_bytes=request.budget_bytes,
        threads=threads,
        rounds=rounds,
        machine=meter.load(threads),
        stock=stock_side,
        flexnn=flexnn_side,
        latency_ratio=flexnn_side.latency_ms_median / stock_side.latency_ms_median,
        peak_exact=bool(stock.opened["exact"] and flexnn.opened["exact"]),
        max_abs_diff=max((absolute for absolute, _ in differences), default=0.0),
        max_rel_diff=max((relative for _, relative in differences), default=0.0),
        top1_equal=all(_same_top1(stock_outputs[blob], flexnn_outputs[blob]) for blob in plan.outputs),
    )


def _summary(entrant: Entrant) -> dict[str, Any]:
    return {
        "latency_ms_median": median(entrant.seconds) * 1e3,
        "latency_ms_min": min(entrant.seconds) * 1e3,
        "load_ms": entrant.opened["load_seconds"] * 1e3,
        "peak_bytes": entrant.peak_bytes,
    }


def _difference(stock: npt.NDArray[Any], ours: npt.NDArray[Any]) -> tuple[float, float]:
    """Largest difference, absolute and relative to stock's largest magnitude; infinite where shapes or NaNs differ."""
    if stock.shape != ours.shape:
        return float("inf"), float("inf")
    if stock.size == 0:
        return 0.0, 0.0
    with np.errstate(invalid="ignore"):
        apart = np.abs(stock.astype(np.float64) - ours)
    apart[(stock == ours) | (np.isnan(stock) & np.isnan(ours))] = 0.0
    absolute = float(np.nan_to_num(apart, nan=np.inf, posinf=np.inf).max())
    if absolute == 0.0:
        return 0.0, 0.0
    magnitude = float(np.abs(stock, where=np.isfinite(stock), out=np.zeros_like(stock)).max())
    return absolute, absolute / magnitude if magnitude else float("inf")


def _same_top1(stock: npt.NDArray[Any], ours: npt.NDArray[Any]) -> bool:
    if stock.shape != ours.shape:
        return False
    scores, others = np.squeeze(stock), np.squeeze(ours)
    if not 1 <= scores.ndim <= 2:
        return True  # a map or a picture has no winner
    return bool(np.array_equal(scores.argmax(axis=-1), others.argmax(axis=-1)))
