"""The plan in force, the vehicle that executes it, and how another budget's takes its place."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import flexnn_ncnn.children  # noqa: F401 - a megabyte, which a plan made later would take from the budget in force
from flexnn_ncnn.preparing.preparation import Progress, Request, is_prepared, prepare, prepare_ahead
from flexnn_ncnn.records.plan import Plan
from flexnn_ncnn.runtime.advance import SLACK_BYTES, LoadAhead
from flexnn_ncnn.runtime.memory.code_pages import forget_code
from flexnn_ncnn.runtime.vehicles import Vehicle, open_plan
from flexnn_ncnn.runtime.weights.resident import ResidentLayers, kept_weight_bytes, resident_keys

__all__ = ["ActivePlan", "BudgetChange", "OnChange", "Sample"]

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class BudgetChange:
    """A budget that took the place of another.

    Attributes:
        before_bytes, after_bytes: the budgets.
        seconds: how long inference could not go on because of it.
        ahead_seconds: how long, before and in many pieces between inferences, weights of a larger budget were loaded.
        kept_bytes: weights that stayed loaded, as the .bin stores them.
        loaded_bytes: weights that were loaded to stay.
    """

    before_bytes: int
    after_bytes: int
    seconds: float
    ahead_seconds: float
    kept_bytes: int
    loaded_bytes: int


OnChange = Callable[[BudgetChange], None]


class Sample:
    """Inputs that plans are made for, remembered without their memory.

    A plan depends on shapes; on values only where they are ids, whose number tells how many rows are read.
    """

    def __init__(self, arrays: Arrays) -> None:
        self._kinds = _kinds(arrays)
        self.arrays: Arrays = {blob: _stand_in(array) for blob, array in arrays.items()}

    def fits(self, arrays: Arrays) -> bool:
        """Whether a plan for these inputs is one for those."""
        return _kinds(arrays) == self._kinds


class ActivePlan:
    """A model within a budget; for one thread at a time, except where a method says so.

    Args:
        request: what to run and the first budget.
        cache_dir: where plans are kept, by default the platform's cache folder.
        progress: called with (what, done, of) while a plan is made.
        on_change: called with every change, before the next inference.

    Attributes:
        request: the budget in force in it.
        vehicle: what executes the plan, None before the first, while it changes, and after `release`.
        plan: the plan in force, the old one while it changes, None before the first and after `release`.
        sample: what the plan was made for, None before the first.
        last_change: the last budget that took the place of another, if any did.
    """

    def __init__(
        self, request: Request, cache_dir: Path | None, progress: Progress | None, on_change: OnChange | None = None
    ) -> None:
        self.request = request
        self.vehicle: Vehicle | None = None
        self.plan: Plan | None = None
        self.sample: Sample | None = None
        self.last_change: BudgetChange | None = None
        self._folder, self._progress, self._on_change = cache_dir, progress, on_change

    def within(self, budget_bytes: int) -> Request:
        """The request with another budget."""
        return replace(self.request, budget_bytes=budget_bytes)

    def open(self, request: Request, arrays: Arrays) -> None:
        """Plan for inputs like `arrays`, and load what stays; replaces what there is.

        Raises:
            FlexnnError: as `preparation.prepare` and `open_plan`; nothing is loaded then.
        """
        self.release()
        plan, _ = prepare(request, arrays, self._progress, folder=self._folder)
        self.vehicle = open_plan(plan, request.param_path, request.bin_path)
        self.request, self.plan, self.sample = request, plan, Sample(arrays)

    def change(self, request: Request, plan: Plan | None = None, ahead: LoadAhead | None = None) -> None:
        """Change to another budget, for the same inputs; what both plans keep stays loaded.

        The memory of the plan before is given back first: at no time is more held than the larger budget.

        Args:
            request: the budget.
            plan: from `plan_beside` for it; by default it is read when the plan before is given back.
            ahead: from `load_ahead` for it, with some layers loaded.

        Raises:
            FlexnnError: as `open`; nothing is loaded then, and the budget in force stays what it was.
        """
        if self.vehicle is None or self.sample is None:
            self.request = request
            return
        begin, before_bytes = time.perf_counter(), self.request.budget_bytes
        kept = self._hand_over()
        try:
            plan = plan or self._prepared(request, self.sample)
            kept_bytes, all_bytes = kept_weight_bytes(kept, plan)
            if ahead is not None:
                kept.absorb(ahead.layers)
            self.vehicle = open_plan(plan, request.param_path, request.bin_path, kept)
        finally:
            kept.close()
        self.request, self.plan = request, plan
        self.last_change = BudgetChange(
            before_bytes=before_bytes,
            after_bytes=request.budget_bytes,
            seconds=time.perf_counter() - begin,
            ahead_seconds=ahead.seconds if ahead else 0.0,
            kept_bytes=kept_bytes,
            loaded_bytes=all_bytes - kept_bytes,
        )
        if self._on_change is not None:
            self._on_change(self.last_change)

    def plan_beside(self, request: Request, sample: Sample) -> Plan | None:
        """The plan for another budget, while the one in force goes on; None where there is no room for two.

        Raises:
            FlexnnError: as `preparation.prepare`.
        """
        before, larger_bytes = self.plan, max(self.request.budget_bytes, request.budget_bytes)
        if before is None or larger_bytes - before.predicted_peak_bytes <= SLACK_BYTES:
            return None
        return self._prepared(request, sample)

    def load_ahead(self, request: Request, plan: Plan) -> LoadAhead | None:
        """What may be loaded for a larger budget while the plan in force goes on; None where that is nothing.

        Args:
            request: the budget.
            plan: from `plan_beside` for it.
        """
        before = self.plan
        if before is None or request.budget_bytes <= self.request.budget_bytes:
            return None
        if {before.vehicle, plan.vehicle} != {"layers"} or plan.model_id != before.model_id:
            return None
        room_bytes = request.budget_bytes - before.predicted_peak_bytes
        return LoadAhead(plan, request.bin_path, resident_keys(before), room_bytes)

    def _prepared(self, request: Request, sample: Sample) -> Plan:
        return prepare(request, sample.arrays, self._progress, folder=self._folder)[0]

    def prepare_ahead(self, request: Request, sample: Sample) -> None:
        """Have a plan in the cache, so that `change` need not make it; from any thread.

        Raises:
            FlexnnError: as `preparation.prepare`.
        """
        prepare_ahead(request, sample.arrays, self._progress, folder=self._folder)

    def is_prepared(self, request: Request, arrays: Arrays) -> bool:
        """Whether there is a plan in the cache."""
        return is_prepared(request, arrays, folder=self._folder)

    def release(self) -> None:
        """Free all memory."""
        if self.vehicle is not None:
            self._hand_over().close()
        self.plan = None

    def _hand_over(self) -> ResidentLayers:
        """What the vehicle keeps loaded; nothing else of it is left."""
        assert self.vehicle is not None
        vehicle, self.vehicle = self.vehicle, None
        try:
            return vehicle.hand_over()
        finally:
            forget_code()


def _kinds(arrays: Arrays) -> dict[str, tuple[tuple[int, ...], str]]:
    return {blob: (array.shape, array.dtype.str) for blob, array in arrays.items()}


def _stand_in(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An array like this one: ids as they are, of numbers a single zero seen everywhere."""
    if array.dtype.kind in "iu":
        return np.array(array)
    zeros: npt.NDArray[Any] = np.broadcast_to(np.zeros((), array.dtype), array.shape)
    return zeros
