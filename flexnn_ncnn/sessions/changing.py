"""A change of budget beside inferences that go on: planned and loaded as far as can be before it takes its turn."""

from __future__ import annotations

from collections.abc import Callable

from flexnn_ncnn.preparing.preparation import Request
from flexnn_ncnn.records.plan import Plan
from flexnn_ncnn.runtime.advance import LoadAhead
from flexnn_ncnn.sessions.active_plan import ActivePlan, Sample
from flexnn_ncnn.sessions.turns import Turns

__all__ = ["change_beside"]

# How long inferences may be kept waiting at a time, at most and as a share of one.
_MOST_SECONDS, _MOST_SHARE = 0.05, 0.5


def change_beside(
    active: ActivePlan,
    turns: Turns,
    request: Request,
    sample: Sample | None,
    is_wanted: Callable[[], bool],
    in_force: Callable[[], None] = lambda: None,
) -> bool:
    """Change the budget, with one short stop.

    Args:
        active: whose budget; no turn of it is held.
        turns: of the inferences.
        request: the budget.
        sample: inputs of the plan in force; None where there is none.
        is_wanted: asked in a turn, whether it still is.
        in_force: called in the turn of the change, after it.

    Returns:
        Whether it is in force; not where inputs of another shape came meanwhile, or it is not wanted any more.

    Raises:
        FlexnnError: as `ActivePlan.change`; the budget before stays in force.
    """
    plan = None
    if sample is not None:
        active.prepare_ahead(request, sample)
        plan = active.plan_beside(request, sample)
    ahead = _load_ahead(active, turns, request, plan, is_wanted) if plan is not None else None
    try:
        with turns.change():
            if active.sample is not sample or not is_wanted():
                return False
            active.change(request, plan, ahead)
            in_force()
            return True
    finally:
        if ahead is not None:
            ahead.close()


def _load_ahead(
    active: ActivePlan, turns: Turns, request: Request, plan: Plan, is_wanted: Callable[[], bool]
) -> LoadAhead | None:
    """Between inferences, load what the larger budget will keep and there is room for already."""
    with turns.change():
        before, vehicle = active.plan, active.vehicle
    ahead = active.load_ahead(request, plan) if vehicle is not None else None
    if ahead is None or vehicle is None:
        return None
    try:
        while True:
            with turns.change():
                if active.plan is not before or not is_wanted():
                    ahead.close()
                    return None
                if not ahead.load(min(_MOST_SECONDS, _MOST_SHARE * vehicle.trace.seconds)):
                    return ahead
            turns.let_pass()
    except BaseException:
        ahead.close()
        raise
