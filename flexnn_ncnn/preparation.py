"""From a model and a budget to a plan that was seen to keep it; profiles and plans are cached on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy.typing as npt

from flexnn_ncnn.assemble import assemble_plan
from flexnn_ncnn.children import Worker, saved_arrays
from flexnn_ncnn.errors import BudgetError, PlanError, ProfileError
from flexnn_ncnn.fingerprint import machine_fingerprint, model_identity
from flexnn_ncnn.formats import read_plan, read_profile, write_plan, write_profile
from flexnn_ncnn.options import RunOptions
from flexnn_ncnn.paths import cache_dir
from flexnn_ncnn.plan import Plan
from flexnn_ncnn.planning.planner import Schedule, Workload, schedule, smallest_budget, workload
from flexnn_ncnn.profile import ModelProfile
from flexnn_ncnn.runtime import native, process_memory
from param_tools.errors import FormatVersionError
from param_tools.model_io import NcnnModel, open_model

__all__ = ["Request", "prepare"]

Progress = Callable[[str, int, int], None]
Record = TypeVar("Record")

# Code pages and Python objects, before a trial tells what they really are.
_FIRST_BASE_BYTES = 2_500_000
# What two runs of one plan differ by: the kernel counts pages in batches.
_BASE_MARGIN_BYTES = 300_000
_TRIALS = 5
_TRIAL_RUNS = 3


@dataclass(frozen=True, slots=True)
class Request:
    """What to run, and within what.

    Attributes:
        param_path, bin_path: the model.
        budget_bytes: what inference may hold beyond the idle process.
        options: how to compute.
    """

    param_path: Path
    bin_path: Path
    budget_bytes: int
    options: RunOptions


def prepare(
    request: Request,
    inputs: Mapping[str, npt.NDArray[Any]],
    progress: Progress | None = None,
    *,
    folder: Path | None = None,
) -> tuple[Plan, Path]:
    """A plan for `request` and where it is kept.

    A plan found in the cache is used as it is; a damaged or foreign one is made again. A new one is tried in a child
    process, and planned again with what the trial showed, until its measured peak is within the budget.

    Args:
        request: what to run.
        inputs: an array per input blob: shapes are planned for, values are used to profile.
        progress: called with (what, done, of).
        folder: cache folder, by default the platform's.

    Raises:
        BudgetError: no plan keeps the budget; the smallest that works is in it.
        ModelFormatError, InputError, ProfileError: the model or an input is bad.
    """
    model_id = model_identity(request.param_path, request.bin_path)
    cache = _Cache(folder or cache_dir(), model_id, machine_fingerprint(native.ncnn_version()), request.options, inputs)
    path = cache.plan_path(request.budget_bytes)
    found = _read_or_none(read_plan, path)
    if found is not None and found.model_id == model_id and found.budget_bytes == request.budget_bytes:
        return found, path
    with open_model(request.param_path, request.bin_path) as model:
        profile = cache.profile(model, inputs, progress)
        planner = _Planner(model, workload(profile), inputs, progress)
        plan = planner.plan(request.budget_bytes, cache.base_bytes())
        cache.write_base(planner.base_bytes)
        write_plan(plan, path)
    return plan, path


class _Cache:
    """Files of one model on one machine with one kind of input."""

    def __init__(
        self, folder: Path, model_id: str, machine: str, options: RunOptions, inputs: Mapping[str, npt.NDArray[Any]]
    ) -> None:
        shapes = {blob: [array.shape, array.dtype.str] for blob, array in inputs.items()}
        facts = json.dumps([model_id, machine, asdict(options), shapes], sort_keys=True)
        self._folder = folder / "plans" / hashlib.sha256(facts.encode()).hexdigest()[:24]
        self._model_id, self._machine, self._options = model_id, machine, options

    def plan_path(self, budget_bytes: int) -> Path:
        """Where the plan for a budget is kept."""
        return self._folder / f"{budget_bytes}.plan.json"

    def profile(
        self, model: NcnnModel, inputs: Mapping[str, npt.NDArray[Any]], progress: Progress | None
    ) -> ModelProfile:
        """The profile, measured now if it is not there."""
        path = self._folder / "profile.json"
        found = _read_or_none(read_profile, path)
        if found is not None and (found.model_id, found.machine) == (self._model_id, self._machine):
            return found
        from flexnn_ncnn.profiler import profile_model

        def report(done: int, of: int) -> None:
            if progress:
                progress("profiling layers", done, of)

        measured = profile_model(model, self._model_id, self._machine, inputs, self._options, progress=report)
        self._folder.mkdir(parents=True, exist_ok=True)
        write_profile(measured, path)
        return measured

    def base_bytes(self) -> int:
        """What earlier trials found a run to need beside what is planned."""
        try:
            return int((self._folder / "base").read_text())
        except (OSError, ValueError):
            return _FIRST_BASE_BYTES

    def write_base(self, base_bytes: int) -> None:
        """Remember it for other budgets."""
        (self._folder / "base").write_text(str(base_bytes))


def _read_or_none(read: Callable[[Path], Record], path: Path) -> Record | None:
    try:
        return read(path) if path.exists() else None
    except (PlanError, ProfileError, FormatVersionError):
        return None


class _Planner:
    """Plans, tries the plan in a child process, and plans again with what it held."""

    def __init__(
        self, model: NcnnModel, work: Workload, inputs: Mapping[str, npt.NDArray[Any]], progress: Progress | None
    ) -> None:
        self._model, self._work, self._inputs, self._progress = model, work, inputs, progress
        self.base_bytes = 0

    def plan(self, budget_bytes: int, base_bytes: int) -> Plan:
        """A plan whose measured peak is within the budget.

        Raises:
            BudgetError: there is none.
        """
        best: Plan | None = None
        for trial in range(_TRIALS):
            if self._progress:
                self._progress("trying the plan", trial, _TRIALS)
            try:
                decided = schedule(self._work, budget_bytes, base_bytes)
            except BudgetError:
                if best is not None:
                    break
                decided = self._smallest(budget_bytes, base_bytes)
            plan = assemble_plan(self._model, decided)
            peak_bytes = self._try(plan)
            found_base = base_bytes + peak_bytes - plan.predicted_peak_bytes
            if peak_bytes <= budget_bytes and plan.budget_bytes == budget_bytes:
                better = best is None or plan.predicted_seconds < best.predicted_seconds
                best = replace(plan, predicted_peak_bytes=peak_bytes) if better else best
                self.base_bytes = found_base + _BASE_MARGIN_BYTES
                if not better or not _has_room(decided, budget_bytes - peak_bytes):
                    break
            base_bytes = found_base + _BASE_MARGIN_BYTES
        if self._progress:
            self._progress("trying the plan", _TRIALS, _TRIALS)
        if best is None:
            least, culprit = smallest_budget(self._work, base_bytes)
            raise BudgetError(budget_bytes=budget_bytes, smallest_bytes=max(least, budget_bytes + 1), culprit=culprit)
        return best

    def _smallest(self, budget_bytes: int, base_bytes: int) -> Schedule:
        """The schedule of the smallest budget: trying it shows whether less would do."""
        least, _ = smallest_budget(self._work, base_bytes)
        return schedule(self._work, max(least, budget_bytes + 1), base_bytes)

    def _try(self, plan: Plan) -> int:
        """Peak growth of the resident set over the idle process, in bytes."""
        if not process_memory.peak_is_exact():
            return plan.predicted_peak_bytes
        with saved_arrays(self._inputs) as inputs, Worker() as worker:
            path = Path(next(iter(inputs.values()))).with_name("plan.json")
            write_plan(plan, path)
            worker.ask("open", inputs=inputs, plan=str(path), bin=str(self._model.bin_path))
            runs = [worker.ask("run") for _ in range(_TRIAL_RUNS)]
        return max(int(run["peak_bytes"]) for run in runs)


def _has_room(decided: Schedule, left_bytes: int) -> bool:
    """Whether the budget is worth planning for once more: something is streamed that could stay."""
    streams = any(choice is not None and not choice.resident for choice in decided.chosen)
    return streams and left_bytes > max(2 * _BASE_MARGIN_BYTES, decided.budget_bytes // 50)
