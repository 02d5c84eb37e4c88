"""Plans tried in a child process and planned again with what the trial held, until one keeps its budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy.typing as npt

from flexnn_ncnn.children import Worker, saved_arrays
from flexnn_ncnn.errors import BudgetError
from flexnn_ncnn.planning.planner import (
    Schedule,
    Workload,
    schedule,
    smallest_budget,
    stock_forecast,
    with_code_returned,
    without_releases,
    workload,
)
from flexnn_ncnn.planning.refined import refined
from flexnn_ncnn.preparing.assemble import assemble_plan, stock_plan
from flexnn_ncnn.preparing.transformed import TransformedFile
from flexnn_ncnn.records.formats import write_plan
from flexnn_ncnn.records.plan import Plan
from flexnn_ncnn.records.profile import ModelProfile
from flexnn_ncnn.runtime.memory import process_memory
from param_tools.model_io import NcnnModel

__all__ = ["FIRST_BASE_BYTES", "Trials"]

# Code pages and Python objects, before a trial tells what they really are.
FIRST_BASE_BYTES = 2_500_000
# What the peak of a plan in some process may be above the largest of a trial's: free heap left from imports, code pages
# touched before. Of 192 fresh processes with 8 plans of small models none held 0.05 MB more; one whose budget changed
# six times between 8 and 40 MB held 0.4 MB more at the end than at first. Where loads go ahead it matters too which
# happen at once: of 13 processes with one plan of gpt2_124m, 60 MB, two held 1.1 and 1.6 MB more. So there it is no
# less than as many times what the largest peak is above the one in the middle.
_NOISE_BYTES, _SPREAD = 400_000, 2
# And what the largest of a trial's peaks differs by between trials: a refusal names a budget that keeps being enough.
_TRIALS_DIFFER_BYTES = 300_000
# What is left free beside that when planning again, so that the next trial passes; and from how much more on that is
# worth it.
_BASE_MARGIN_BYTES, _WORTH_A_TRIAL_BYTES = 50_000, 150_000
# What graphs and plans that a process has read before leave: a trial reads one plan, a session whose budget changes
# reads many. By steps of the plan, what Python keeps: 600 of vit_b16_mha after 12 plans.
_LEFT_BYTES_PER_STEP = 2_000
# And of the weights that stay, what a heap that had other weights before is left with in holes: with 2,500 bytes a step
# alone, and 70 MB that stayed, the third plan of resnet152 once held 90 kB too much.
_LEFT_SHARE = 0.012
# Plans that keep the budget: what the first shows makes another that fills it better, and more of them hardly differ.
_TRIALS, _MOST_THAT_KEEP_IT = 6, 2
# Where no plan before them kept the budget, the last of these are of the one that needs least; what they show of
# workspace may make it another.
_LEAST_TRIALS = 3
# What giving memory back takes of code at least, before a trial tells: of two plans that need the same without that,
# the one that gives back needs less.
_FIRST_CODE_BYTES = 100_000
_TRIAL_RUNS = 3
# A trial in a process with an environment larger by each of these: malloc puts blocks elsewhere then, and a heap whose
# free blocks lie badly grows by a megabyte more.
_PADDINGS_BYTES = (0, 2_000, 6_000)


@dataclass(frozen=True, slots=True)
class _Trial:
    """What a plan showed.

    Attributes:
        peak_bytes: growth of the resident set over the idle process, at most, with what plans before it leave.
        usual_bytes: that growth in the process in the middle, which read no plan before.
        spread_bytes: how far that of all processes is above it.
        missing_bytes: by number of a step how much too small its scratch is.
    """

    peak_bytes: int
    usual_bytes: int
    spread_bytes: int
    missing_bytes: Mapping[int, int]


class Trials:
    """Plans one model, each plan tried.

    Args:
        model: its files.
        work: the part of planning that no budget changes.
        inputs: what to try plans on.
        progress: called with (what, done, of).
        folder: of the model's plans, where transformed weights are kept.

    Attributes:
        base_bytes: what the last trial showed a run to need beside what is planned; 0 before the first.
    """

    def __init__(
        self,
        model: NcnnModel,
        work: Workload,
        inputs: Mapping[str, npt.NDArray[Any]],
        progress: Callable[[str, int, int], None] | None,
        folder: Path,
    ) -> None:
        self._model, self._work, self._inputs, self._progress = model, work, inputs, progress
        self._transformed = TransformedFile(folder)
        self.base_bytes = 0
        # what code takes is seen in a plan that keeps it, and only then is it planned where to let go of it
        self._knows_code = work.code_bytes > 0

    @property
    def code_bytes(self) -> int:
        """The part of `base_bytes` that giving memory back takes out of the resident set."""
        return self._work.code_bytes

    @property
    def profile(self) -> ModelProfile:
        """What plans are made for: what was measured, and what trials found to be otherwise."""
        return self._work.profile

    def plan(self, budget_bytes: int, base_bytes: int) -> Plan:
        """A plan whose measured peak is within the budget; where the system tells no peaks, one with room for doubt.

        Raises:
            BudgetError: there is none.
        """
        if not process_memory.peak_is_exact():
            return self.untried(budget_bytes, base_bytes)
        self._report(0)
        stock = self._stock(budget_bytes, base_bytes)
        if stock is not None:
            self._report(_TRIALS)
            return stock
        best: Plan | None = None
        smallest_bytes = keep_it = extra_bytes = 0
        has_hoped = self._knows_code
        for trial in range(_TRIALS):
            self._report(trial)
            planned_bytes = base_bytes + extra_bytes
            needs_least = best is None and trial >= _TRIALS - _LEAST_TRIALS
            try:
                if needs_least:
                    decided = self._smallest(self._work, planned_bytes)
                else:
                    decided = schedule(self._work, budget_bytes, planned_bytes)
            except BudgetError:
                if best is not None:
                    break
                needs_least = True
                decided = self._smallest(self._work, planned_bytes)
            teaches = decided.gives_back and not self._knows_code
            if teaches:
                needs_least, decided = False, self._smallest(without_releases(self._work), planned_bytes)
            plan = self._transformed.supply(assemble_plan(self._model, decided), self._model.bin_path)
            tried = self._try(plan)
            peak_bytes = tried.peak_bytes
            if tried.missing_bytes:
                self._refine(decided, tried.missing_bytes)
            else:  # or a block that went to the heap, as scratch was too small for it, would be taken for code
                more_bytes = peak_bytes - plan.predicted_peak_bytes + _NOISE_BYTES + _BASE_MARGIN_BYTES
                base_bytes = self._learn(planned_bytes, more_bytes, decided.gives_back)
                self._knows_code = self._knows_code or not decided.gives_back
            noise_bytes = _noise_bytes(decided, tried)
            extra_bytes = noise_bytes - _NOISE_BYTES  # of plans like this one, not of all that are made later
            if peak_bytes + noise_bytes <= budget_bytes:
                better = best is None or plan.predicted_seconds < best.predicted_seconds
                if better:
                    best = replace(plan, budget_bytes=budget_bytes, predicted_peak_bytes=tried.usual_bytes)
                keep_it += not teaches
                has_room = _has_room(decided, budget_bytes - peak_bytes - noise_bytes)
                is_worth_another = better and has_room and keep_it < _MOST_THAT_KEEP_IT
                if not teaches and not is_worth_another:
                    break
            elif needs_least and not tried.missing_bytes:
                if decided.gives_back or has_hoped:  # no other plan needs less
                    smallest_bytes = peak_bytes + noise_bytes + _TRIALS_DIFFER_BYTES
                    break
                has_hoped = True
                self._work = with_code_returned(self._work, max(self.code_bytes, _FIRST_CODE_BYTES))
        self._report(_TRIALS)
        if best is None:
            least_bytes, culprit = smallest_budget(self._work, base_bytes)
            smallest_bytes = max(smallest_bytes or least_bytes, budget_bytes + 1)
            raise BudgetError(budget_bytes=budget_bytes, smallest_bytes=smallest_bytes, culprit=culprit)
        return best

    def untried(self, budget_bytes: int, base_bytes: int) -> Plan:
        """The best plan by what is predicted, with room for doubt.

        Raises:
            BudgetError: there is none.
        """
        forecast_bytes, seconds = stock_forecast(self._work, base_bytes)
        if forecast_bytes + _NOISE_BYTES <= budget_bytes:
            return stock_plan(self._work.profile, budget_bytes, forecast_bytes, seconds)
        room_bytes = max(1, budget_bytes - _NOISE_BYTES)
        try:  # without counting on memory that is given back, where that works: nobody sees here whether it is gone
            decided = schedule(without_releases(self._work), room_bytes, base_bytes)
        except BudgetError:
            decided = self._releasing(budget_bytes, room_bytes, base_bytes)
        plan = replace(assemble_plan(self._model, decided), budget_bytes=budget_bytes)
        return self._transformed.supply(plan, self._model.bin_path)

    def _releasing(self, budget_bytes: int, room_bytes: int, base_bytes: int) -> Schedule:
        try:
            return schedule(self._work, room_bytes, base_bytes)
        except BudgetError as error:
            smallest_bytes = error.smallest_bytes + _NOISE_BYTES
            raise BudgetError(
                budget_bytes=budget_bytes, smallest_bytes=smallest_bytes, culprit=error.culprit
            ) from error

    def _report(self, done: int) -> None:
        if self._progress:
            self._progress("trying the plan", done, _TRIALS)

    def _stock(self, budget_bytes: int, base_bytes: int) -> Plan | None:
        """The plan that is stock ncnn with everything resident, where the budget holds that."""
        forecast_bytes, seconds = stock_forecast(self._work, base_bytes)
        if forecast_bytes > budget_bytes:
            return None
        plan = stock_plan(self._work.profile, budget_bytes, forecast_bytes, seconds)
        tried = self._try(plan)
        fits = tried.peak_bytes + _NOISE_BYTES <= budget_bytes
        return replace(plan, predicted_peak_bytes=tried.usual_bytes) if fits else None

    def _smallest(self, work: Workload, base_bytes: int) -> Schedule:
        """The schedule of the smallest budget: trying it shows whether less would do."""
        least_bytes, _ = smallest_budget(work, base_bytes)
        return schedule(work, max(1, least_bytes), base_bytes)

    def _refine(self, decided: Schedule, missing_bytes: Mapping[int, int]) -> None:
        work = self._work
        profile = refined(work.profile, decided, missing_bytes)
        self._work = with_code_returned(workload(profile, work.capabilities, work.storage), work.code_bytes)

    def _learn(self, base_bytes: int, more_bytes: int, gave_back: bool) -> int:
        """The base after a trial that held so much more than planned.

        What plans need beside all that is planned differs between two kinds by what giving memory back takes out of the
        resident set, megabytes: a trial of one kind says nothing about the other, unless that one would need less.
        """
        kept_bytes = base_bytes + (0 if gave_back else more_bytes)
        returned_bytes = base_bytes - self.code_bytes + (more_bytes if gave_back else 0)
        if gave_back:
            kept_bytes = max(kept_bytes, returned_bytes)
        self._work = with_code_returned(self._work, max(0, kept_bytes - returned_bytes))
        self.base_bytes = kept_bytes
        return kept_bytes

    def _try(self, plan: Plan) -> _Trial:
        """Run a plan in processes of its own."""
        peaks, missing = [], dict[int, int]()
        with TemporaryDirectory(prefix="flexnn-") as folder, saved_arrays(self._inputs) as inputs:
            path = Path(folder) / "plan.json"
            write_plan(plan, path)
            param, weights = str(self._model.param_path), str(self._model.bin_path)
            for padding in _PADDINGS_BYTES:
                threads = plan.options.num_threads
                with Worker(task="trying the plan", threads=threads, padding_bytes=padding) as worker:
                    worker.ask("open", inputs=inputs, plan=str(path), param=param, bin=weights)
                    runs = [worker.ask("run") for _ in range(_TRIAL_RUNS)]
                    peaks.append(max(int(run["peak_bytes"]) for run in runs))
                    missing.update((step, size) for run in runs for step, size in run["overflows"])
        left_bytes = _LEFT_BYTES_PER_STEP * len(plan.steps) + int(_LEFT_SHARE * plan.resident_bytes)
        usual_bytes = sorted(peaks)[len(peaks) // 2]
        return _Trial(max(peaks) + left_bytes, usual_bytes, max(peaks) - usual_bytes, missing)


def _noise_bytes(decided: Schedule, tried: _Trial) -> int:
    """How much more than in a trial a schedule's plan may hold."""
    return _NOISE_BYTES if decided.lanes is None else max(_NOISE_BYTES, _SPREAD * tried.spread_bytes)


def _has_room(decided: Schedule, left_bytes: int) -> bool:
    """Whether the budget is worth planning for once more: something is streamed that could stay."""
    streams = any(choice is not None and not choice.resident for choice in decided.chosen)
    return streams and left_bytes > max(_BASE_MARGIN_BYTES + _WORTH_A_TRIAL_BYTES, decided.budget_bytes // 50)
