"""Profiles and schedules without a run: what `flexnn profile` and `flexnn schedule` do."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy.typing as npt

from flexnn_ncnn.children import Worker, saved_arrays
from flexnn_ncnn.errors import ProfileError
from flexnn_ncnn.paths import cache_dir
from flexnn_ncnn.planning.planner import Schedule, Workload, schedule, with_code_returned, workload
from flexnn_ncnn.preparing.assemble import assemble_plan
from flexnn_ncnn.preparing.preparation import PlanCache, Progress, Request, ask_preparer
from flexnn_ncnn.preparing.transformed import TransformedFile
from flexnn_ncnn.preparing.trials import FIRST_BASE_BYTES
from flexnn_ncnn.records.capabilities import STOCK
from flexnn_ncnn.records.fingerprint import machine_fingerprint, model_identity
from flexnn_ncnn.records.formats import read_profile, write_plan
from flexnn_ncnn.records.profile import ModelProfile
from flexnn_ncnn.runtime import native
from flexnn_ncnn.scheduling.explain import Explanation, explain
from flexnn_ncnn.scheduling.forecast import Smallest, SweepPoint, smallest, sweep, sweep_budgets
from flexnn_ncnn.scheduling.memory_map import MemoryMap, memory_map
from param_tools.model_io import open_model

__all__ = ["Scheduler", "StockPoint", "measure_stock", "profile_model_files"]

Arrays = Mapping[str, npt.NDArray[Any]]
_STOCK_RUNS = 4


@dataclass(frozen=True, slots=True)
class StockPoint:
    """Stock ncnn, measured.

    Attributes:
        name: what it is, for people.
        peak_bytes: growth of the resident set's peak over the idle process, loading included.
        seconds: median of one inference.
    """

    name: str
    peak_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Scheduler:
    """Schedules for one profile.

    Attributes:
        work: the part of planning that no budget changes.
        base_bytes: code pages and Python objects of a run.
        base_is_known: whether a trial on this machine found it, rather than that it is assumed.
        is_of_this_machine: whether the profile was measured here.
    """

    work: Workload
    base_bytes: int
    base_is_known: bool
    is_of_this_machine: bool

    @classmethod
    def of_model(
        cls, request: Request, inputs: Arrays, progress: Progress | None = None, *, folder: Path | None = None
    ) -> Scheduler:
        """For a model: with its profile from the cache, or one made now.

        Args:
            request: the model and how to compute; its budget is what making a profile may hold, 0 for any.
            inputs: an array per input blob.
            progress: called with (what, done, of).
            folder: cache folder, by default the platform's.

        Raises:
            ModelFormatError, InputError, ProfileError: the model or an input is bad.
            WorkerError: ncnn crashed on it.
        """
        cache = PlanCache.of(request, inputs, folder or cache_dir())
        profile = cache.profile_for(request.budget_bytes) or profile_model_files(
            request, inputs, progress, folder=folder
        )
        found = cache.base()
        base_bytes, code_bytes = found or (FIRST_BASE_BYTES, 0)
        work = with_code_returned(workload(profile, native.capabilities()), code_bytes)
        return cls(work, base_bytes, found is not None, True)

    @classmethod
    def of_profile(cls, profile: ModelProfile) -> Scheduler:
        """For a profile, wherever it was measured."""
        is_ours = profile.machine == machine_fingerprint(native.ncnn_version())
        return cls(workload(profile, native.capabilities() if is_ours else STOCK), FIRST_BASE_BYTES, False, is_ours)

    @classmethod
    def of_profile_file(cls, path: str | os.PathLike[str]) -> Scheduler:
        """For a profile in a file of `flexnn profile`.

        Raises:
            ProfileError, FormatVersionError: it is none, or damaged.
        """
        return cls.of_profile(read_profile(path))

    def narrowed(self, profile: ModelProfile) -> Scheduler:
        """The same for a profile that knows of less, to see what that is worth."""
        work = workload(profile, self.work.capabilities, self.work.storage)
        return replace(self, work=with_code_returned(work, self.work.code_bytes))

    @property
    def profile(self) -> ModelProfile:
        """What was measured."""
        return self.work.profile

    def smallest(self) -> Smallest:
        """The smallest budget that works, and what sets it."""
        return smallest(self.work, self.base_bytes)

    def sweep(self, budgets: Sequence[int] = ()) -> tuple[SweepPoint, ...]:
        """What budgets give; from the smallest that works to all that can be used where none are given."""
        return sweep(self.work, self.base_bytes, budgets or sweep_budgets(self.work, self.base_bytes))

    def schedule(self, budget_bytes: int) -> Schedule:
        """The fastest schedule within a budget.

        Raises:
            BudgetError: there is none; it says the smallest budget that works and what sets it.
        """
        return schedule(self.work, budget_bytes, self.base_bytes)

    def explain(self, decided: Schedule) -> Explanation:
        """What a schedule of this scheduler does."""
        return explain(self.work, decided, self.base_bytes)

    def memory_map(self, decided: Schedule) -> MemoryMap:
        """What lies where."""
        return memory_map(decided, self.base_bytes)

    def write_plan(self, decided: Schedule, request: Request, path: str | os.PathLike[str]) -> None:
        """Write a schedule with everything a run needs from the model's files.

        Raises:
            ProfileError: the profile is of another model or another machine.
        """
        require_fit(self.profile, request)
        with open_model(request.param_path, request.bin_path) as model:
            plan = TransformedFile(Path(path).parent).supply(assemble_plan(model, decided), model.bin_path)
            write_plan(plan, path)


def require_fit(profile: ModelProfile, request: Request) -> None:
    """Proves that a profile is of this machine and of the model it is to be used for.

    Raises:
        ProfileError: it is not.
        ModelFormatError: the model's files cannot be read.
    """
    if profile.model_id != model_identity(request.param_path, request.bin_path):
        raise ProfileError(f"the profile is not of {request.param_path}", hint="make it again with 'flexnn profile'")
    if profile.machine != machine_fingerprint(native.ncnn_version()):
        raise ProfileError(
            "the profile was measured on another machine or with another ncnn",
            hint="make it again with 'flexnn profile'",
        )


def profile_model_files(
    request: Request,
    inputs: Arrays,
    progress: Progress | None = None,
    *,
    folder: Path | None = None,
    strictly: bool = False,
) -> ModelProfile:
    """Profile a model in a child process; the profile is kept in the cache, too.

    Args:
        request: the model and how to compute; its budget is what measuring may hold, 0 for any.
        inputs: an array per input blob: the shapes it is profiled for.
        progress: called with (what, done, of).
        folder: cache folder, by default the platform's.
        strictly: refuse a budget that measuring does not fit in; else it holds as little as it needs.

    Raises:
        BudgetError: measuring does not fit into the budget.
        ModelFormatError, InputError, ProfileError: the model or an input is bad.
        WorkerError: ncnn crashed on it.
    """
    folder = folder or cache_dir()
    ask_preparer("profile_within" if strictly else "profile", request, inputs, folder, progress)
    return read_profile(PlanCache.of(request, inputs, folder).profile_path)


def measure_stock(request: Request, inputs: Arrays, outputs: Sequence[str]) -> StockPoint:
    """Run stock ncnn on `inputs` in a child process.

    Args:
        request: the model and how to compute; its budget does not matter.
        inputs: an array per input blob.
        outputs: the blobs to extract.

    Raises:
        FlexnnError: stock ncnn cannot run the model.
    """
    with saved_arrays(inputs) as saved, Worker(task="stock ncnn") as worker:
        worker.ask(
            "open",
            inputs=saved,
            param=str(request.param_path),
            bin=str(request.bin_path),
            options=asdict(request.options),
            outputs=outputs,
        )
        runs = [worker.ask("run") for _ in range(_STOCK_RUNS)]
    seconds = median(float(run["seconds"]) for run in runs[1:])
    return StockPoint("stock ncnn, measured", max(int(run["peak_bytes"]) for run in runs), seconds)
