"""A model under budgets that change while it computes: latency and memory over time, and what each change costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy.typing as npt

from flexnn_ncnn.children import Worker, saved_arrays
from flexnn_ncnn.errors import BudgetExceededError, UsageError
from flexnn_ncnn.measuring.machine_load import LoadMeter, MachineLoad
from flexnn_ncnn.paths import cache_dir
from flexnn_ncnn.preparing.preparation import Progress, Request

__all__ = ["Adaptation", "Phase", "Sample", "SwitchCost", "adapt_model"]

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Sample:
    """One inference.

    Attributes:
        seconds: when it began, counted from when the first one did.
        latency_ms: of the inference itself.
        budget_bytes: the budget in force.
        held_bytes: growth over the idle process, after it.
    """

    seconds: float
    latency_ms: float
    budget_bytes: int
    held_bytes: int


@dataclass(frozen=True, slots=True)
class SwitchCost:
    """What a change of budget took.

    Attributes:
        planning_ms: from when it was asked for until inference stopped for it; inferences went on meanwhile.
        inferences_meanwhile: how many.
        delayed_ms: how long those waited in all for what was loaded between them.
        longest_delay_ms: how long one of them did at most.
        stopped_ms: from the end of the last inference within the old budget to the begin of the first within the new.
        first_latency_ms: of that first inference.
        lost_ms: how long inferences waited in all, and how much longer than the new budget's median the first one took.
        peak_bytes: growth over the idle process at most, from when it was asked for until it was done.
        weights_kept_bytes: weights that stayed loaded, as the .bin stores them.
        weights_loaded_bytes: weights that were loaded to stay.
    """

    planning_ms: float
    inferences_meanwhile: int
    delayed_ms: float
    longest_delay_ms: float
    stopped_ms: float
    first_latency_ms: float
    lost_ms: float
    peak_bytes: int
    weights_kept_bytes: int
    weights_loaded_bytes: int


@dataclass(frozen=True, slots=True)
class Phase:
    """Inferences within one budget.

    Attributes:
        budget_bytes: the budget.
        inferences: how many, while the next one's plan was made included.
        latency_ms_median, latency_ms_min: of them.
        peak_bytes: growth over the idle process at most, from the first one until the next budget was asked for.
        weights_streamed_bytes, weights_resident_bytes: read in each inference, and kept between them.
        switch: what the change to it took; None for the first.
    """

    budget_bytes: int
    inferences: int
    latency_ms_median: float
    latency_ms_min: float
    peak_bytes: int
    weights_streamed_bytes: int
    weights_resident_bytes: int
    switch: SwitchCost | None


@dataclass(frozen=True, slots=True)
class Adaptation:
    """What `adapt_model` found.

    Attributes:
        model: what the caller calls it.
        threads: compute threads.
        phases: one for each budget.
        peak_exact: whether the system tells peaks exactly; if not, they are upper bounds and no budget is judged.
        machine: how busy it was with other things.
        samples: every inference.
    """

    model: str
    threads: int
    phases: tuple[Phase, ...]
    peak_exact: bool
    machine: MachineLoad
    samples: tuple[Sample, ...]

    def check(self) -> None:
        """Prove that every budget was kept, and the larger one while it changed.

        Raises:
            BudgetExceededError: one was not.
        """
        before = 0
        for phase in self.phases:
            limits = [(phase.peak_bytes, phase.budget_bytes)]
            if phase.switch is not None:
                limits.append((phase.switch.peak_bytes, max(before, phase.budget_bytes)))
            for peak_bytes, budget_bytes in limits:
                if self.peak_exact and peak_bytes > budget_bytes:
                    raise BudgetExceededError(budget_bytes=budget_bytes, peak_bytes=peak_bytes)
            before = phase.budget_bytes


def adapt_model(
    request: Request,
    inputs: Arrays,
    budgets: Sequence[int],
    *,
    runs: int = 32,
    seconds: float = 0.0,
    progress: Progress | None = None,
    watch: Callable[[Sample, int], None] | None = None,
    model: str = "",
    folder: Path | None = None,
) -> Adaptation:
    """Run a model in a child process, within one budget after the other.

    Args:
        request: the model and how to compute; its budget does not matter.
        inputs: an array per input blob, float32 or int32, outermost axis first.
        budgets: in bytes, in their order.
        runs: inferences within each, at least.
        seconds: time within each, at least.
        progress: called with (what, done, of) while the first plan is made.
        watch: called after every inference with what it took and the number of its phase.
        model: what to call it; the .param's path where empty.
        folder: cache folder, by default the platform's.

    Raises:
        UsageError: no budget.
        BudgetError: one of them cannot work.
        FlexnnError: as `preparation.prepare`.
    """
    if not budgets:
        raise UsageError("nothing says which budgets to have", hint="give some, such as --budgets 100MB,300MB")
    meter, threads = LoadMeter(), request.options.num_threads
    with saved_arrays(inputs) as saved, Worker("flexnn_ncnn.measuring.adaptation_worker", threads=threads) as worker:
        opened = worker.ask(
            "open",
            progress,
            inputs=saved,
            param=str(request.param_path),
            bin=str(request.bin_path),
            options=asdict(request.options),
            budget_bytes=budgets[0],
            folder=str(folder or cache_dir()),
        )
        demo = _Demo(worker, meter, watch)
        phases = list(demo.phases(budgets, runs, seconds))
    return Adaptation(
        model=model or str(request.param_path),
        threads=threads,
        phases=tuple(phases),
        peak_exact=bool(opened["exact"]),
        machine=meter.load(threads),
        samples=tuple(demo.samples),
    )


class _Demo:
    """Inferences of the child, one by one."""

    def __init__(self, worker: Worker, meter: LoadMeter, watch: Callable[[Sample, int], None] | None) -> None:
        self._worker, self._meter, self._watch = worker, meter, watch
        self._origin = 0.0
        self.samples: list[Sample] = []

    def phases(self, budgets: Sequence[int], runs: int, seconds: float) -> Iterator[Phase]:
        """Go through all budgets."""
        reports: list[dict[str, Any]] = []
        switch: SwitchCost | None = None
        for number, budget_bytes in enumerate(budgets):
            end = time.monotonic() + seconds
            while len(reports) < runs or time.monotonic() < end:
                reports.append(self._run(number))
            if number + 1 == len(budgets):
                break
            peak_bytes = reports[-1]["peak_bytes"]
            first, following = self._change(reports, number, budgets[number + 1])
            yield _phase(budget_bytes, reports, peak_bytes, switch)
            reports, switch = [first], following
        yield _phase(budgets[-1], reports, reports[-1]["peak_bytes"], switch)

    def _change(
        self, reports: list[dict[str, Any]], number: int, budget_bytes: int
    ) -> tuple[dict[str, Any], SwitchCost | None]:
        """Ask for a budget and go on until it is in force: the first inference within it, and what it took."""
        before = len(reports)
        if budget_bytes == reports[-1]["budget_bytes"]:
            return self._run(number + 1), None
        self._worker.ask("set_budget", budget_bytes=budget_bytes)
        while (report := self._run(number))["change"] is None:
            reports.append(report)
        asked_seconds, stopped_seconds = reports[before - 1]["end_seconds"], reports[-1]["end_seconds"]
        began_seconds = report["end_seconds"] - report["inference_seconds"]
        change = report["change"]
        delays = [one["end_seconds"] - one["begin_seconds"] - one["inference_seconds"] for one in reports[before:]]
        stopped_ms = (began_seconds - stopped_seconds) * 1e3
        return report, SwitchCost(
            planning_ms=(stopped_seconds - asked_seconds) * 1e3,
            inferences_meanwhile=len(reports) - before,
            delayed_ms=sum(delays) * 1e3,
            longest_delay_ms=max(delays, default=0.0) * 1e3,
            stopped_ms=stopped_ms,
            first_latency_ms=report["inference_seconds"] * 1e3,
            lost_ms=sum(delays) * 1e3 + stopped_ms,
            peak_bytes=change["peak_bytes"],
            weights_kept_bytes=change["kept_bytes"],
            weights_loaded_bytes=change["loaded_bytes"],
        )

    def _run(self, number: int) -> dict[str, Any]:
        self._meter.look()
        report = self._worker.ask("run")
        began = report["end_seconds"] - report["inference_seconds"]
        self._origin = self._origin or began
        latency_ms = report["inference_seconds"] * 1e3
        self.samples.append(Sample(began - self._origin, latency_ms, report["budget_bytes"], report["held_bytes"]))
        if self._watch is not None:
            self._watch(self.samples[-1], number + (report["change"] is not None))
        return report


def _phase(
    budget_bytes: int, reports: Sequence[Mapping[str, Any]], peak_bytes: int, switch: SwitchCost | None
) -> Phase:
    latencies = [report["inference_seconds"] * 1e3 for report in reports]
    if switch is not None:
        longer_ms = max(0.0, switch.first_latency_ms - median(latencies))
        switch = replace(switch, lost_ms=switch.lost_ms + longer_ms)
    return Phase(
        budget_bytes=budget_bytes,
        inferences=len(reports),
        latency_ms_median=median(latencies),
        latency_ms_min=min(latencies),
        peak_bytes=peak_bytes,
        weights_streamed_bytes=reports[-1]["streamed_bytes"],
        weights_resident_bytes=reports[-1]["resident_bytes"],
        switch=switch,
    )
