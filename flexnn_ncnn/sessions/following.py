"""A session with `budget="auto"`: changes of budget as `auto_budget` wants them, with plans made ahead of need."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy.typing as npt

from flexnn_ncnn.errors import BudgetError, FlexnnError
from flexnn_ncnn.records.plan import Plan
from flexnn_ncnn.sessions.active_plan import ActivePlan, Sample
from flexnn_ncnn.sessions.auto_budget import AutoBudget, levels_below
from flexnn_ncnn.sessions.changing import change_beside
from flexnn_ncnn.sessions.turns import Turns

__all__ = ["Follower", "held_bytes"]

_LOG = logging.getLogger(__name__)
# Levels below the budget whose plans are made ahead: when memory is short there is none to make them in.
_LEVELS_AHEAD = 2
_LEVELS_SEARCHED = 20
# What the process that makes a plan holds beside what it tries.
_PLANNING_BYTES = 120_000_000

Arrays = Mapping[str, npt.NDArray[Any]]


def held_bytes(plan: Plan) -> int:
    """What a loaded plan holds between inferences and only it can give back.

    Raw weights that are used in place in a mapped file are page cache: the system counts them as available.
    """
    if plan.vehicle == "net":
        return plan.predicted_peak_bytes
    in_place = sum(step.weight_bytes for step in plan.steps if step.resident and step.reads_raw)
    mapped = in_place if plan.page_cache == "mmap" else 0
    return plan.arena_bytes + plan.heap_bytes + max(0, plan.resident_bytes - mapped)


class Follower:
    """Keeps a budget within the memory there is.

    Shrinking does not wait: it takes the largest budget that a plan is there for, and where there is none frees
    everything before it makes one. Growing is prepared while inference goes on.

    Args:
        active: whose budget.
        turns: whoever changes it takes one.
        auto: says which budget.
    """

    def __init__(self, active: ActivePlan, turns: Turns, auto: AutoBudget) -> None:
        self._active, self._turns, self._auto = active, turns, auto
        self._thread: threading.Thread | None = None
        self._ahead_of: tuple[int, Sample | None] = (0, None)
        self._stopped = False

    def follow(self, arrays: Arrays) -> None:
        """Have the budget there is memory for and a plan for `arrays`; before an inference, in its turn.

        Raises:
            BudgetError: there is no memory for any budget that works.
            FlexnnError: as `preparation.prepare`.
        """
        active, vehicle = self._active, self._active.vehicle
        if vehicle is None:
            self._open(arrays)
            return
        plan, budget_bytes = vehicle.plan, active.request.budget_bytes
        wanted = self._auto.wanted(budget_bytes, held_bytes(plan), plan.streamed_bytes == 0)
        if wanted < budget_bytes:
            self._shrink(wanted, arrays)
        elif wanted > budget_bytes:
            self._in_background(lambda: self._grow(budget_bytes, wanted))
        elif self._ahead_of != (budget_bytes, active.sample):
            self._in_background(lambda: self._look_ahead(budget_bytes))

    def stop(self) -> None:
        """Change nothing any more; what is being made in the background comes to nothing."""
        self._stopped = True

    def _open(self, arrays: Arrays, at_most_bytes: int = 0) -> None:
        """Plan anew; `at_most_bytes` is a budget that there was memory for, whatever the system says now."""
        wanted = self._auto.wanted(0, 0, False)
        while True:
            try:
                self._active.open(self._active.within(wanted), arrays)
                return
            except BudgetError as refused:
                self._auto.smallest_bytes = refused.smallest_bytes
                again = self._auto.wanted(0, 0, False)
                if again <= wanted and wanted < refused.smallest_bytes < at_most_bytes:
                    again = refused.smallest_bytes
                if again <= wanted:
                    raise
                wanted = again

    def _shrink(self, wanted: int, arrays: Arrays) -> None:
        active = self._active
        budget_bytes = active.request.budget_bytes
        levels = [wanted, *levels_below(wanted, _LEVELS_SEARCHED)]
        found = next((level for level in levels if active.is_prepared(active.within(level), arrays)), 0)
        _LOG.info("memory is short: budget %d -> %d bytes", budget_bytes, found or wanted)
        if found:
            active.change(active.within(found))
            return
        active.release()
        self._open(arrays, budget_bytes)

    def _grow(self, budget_bytes: int, wanted: int) -> None:
        active = self._active

        def is_wanted() -> bool:
            still = active.request.budget_bytes == budget_bytes and active.vehicle is not None
            return still and not self._stopped

        if change_beside(active, self._turns, active.within(wanted), active.sample, is_wanted):
            _LOG.info("memory is free: budget %d -> %d bytes", budget_bytes, wanted)

    def _look_ahead(self, budget_bytes: int) -> None:
        """Make the plans that shrinking will want."""
        active, sample = self._active, self._active.sample
        if sample is None:
            return
        self._ahead_of = (budget_bytes, sample)
        for level in levels_below(budget_bytes, _LEVELS_AHEAD):
            if self._stopped or self._auto.spare_bytes < level + _PLANNING_BYTES:
                return
            try:
                active.prepare_ahead(active.within(level), sample)
            except BudgetError as refused:
                self._auto.smallest_bytes = refused.smallest_bytes
                active.prepare_ahead(active.within(refused.smallest_bytes), sample)
                return

    def _in_background(self, work: Callable[[], None]) -> None:
        """Do it in a thread, unless one is at work."""
        if self._thread is not None and self._thread.is_alive():
            return

        def careful() -> None:
            try:
                work()
            except FlexnnError as error:  # what was in force goes on
                _LOG.info("no plan for another budget: %s", error)
                self._auto.postpone()

        self._thread = threading.Thread(target=careful, name="flexnn-auto-budget", daemon=True)
        self._thread.start()
