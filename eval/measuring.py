"""Cells measured one after the other, each in child processes, and kept at once."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from eval.cells import Cell
from eval.commands import flexnn
from eval.contest_cell import measure_contest
from eval.devices import imitated
from eval.models import model_files
from eval.overhead import measure_steps
from eval.results import Results
from param_tools.errors import FlexnnError

__all__ = ["measure", "run_cells"]

Progress = Callable[[str, int, int], None]

# Statuses of `flexnn`: no plan can keep the budget, which is found out and stays; a budget was exceeded, which is told.
_REFUSED, _EXCEEDED = 3, 4


def run_cells(
    cells: Sequence[Cell],
    results: Results,
    progress: Progress | None = None,
    measured_by: Callable[[Cell], Mapping[str, Any]] | None = None,
) -> list[str]:
    """Measures the cells that the results do not hold.

    A cell that fails is kept as such, and the others go on.

    Args:
        cells: what to measure, in this order.
        results: where it goes.
        progress: called with (what, done, of) before each cell, and at the end.
        measured_by: measures one cell; None for `measure`.

    Returns:
        Why cells failed, a sentence for each that did.
    """
    missing = [cell for cell in cells if not results.holds(cell)]
    failures = []
    for done, cell in enumerate(missing):
        if progress is not None:
            progress(_name(cell), done, len(missing))
        at, begin = datetime.now(timezone.utc).isoformat(timespec="seconds"), _clocks()
        result = (measured_by or measure)(cell)
        if result["status"] == "failed":
            failures.append(result["message"])
        wall, cpu = (round(end - start, 1) for start, end in zip(begin, _clocks(), strict=True))
        results.append(cell, {"at": at, "took_seconds": wall, "cpu_seconds": cpu, **result})
    if progress is not None:
        progress("measured", len(missing), len(missing))
    return failures


def measure(cell: Cell) -> dict[str, Any]:
    """What is found of a cell: its status, "measured", "refused" or "failed", and what goes with that."""
    try:
        if cell.experiment == "overhead":
            return {"status": "measured", "found": measure_steps(cell)}
        if cell.experiment == "adaptive":
            return _adaptive(cell)
        return {"status": "measured", "found": measure_contest(cell)}
    except FlexnnError as error:
        status = getattr(error, "status", error.exit_code)
        refused = status == _REFUSED
        return {"status": "refused" if refused else "failed", "message": error.message, "exit_status": status}


def _adaptive(cell: Cell) -> dict[str, Any]:
    """`flexnn adapt`: the budget changes while the model computes."""
    budgets = ",".join(map(str, cell.sequence_bytes))
    arguments = ("adapt", cell.model, "--budgets", budgets, "--runs-each", cell.loops, "--threads", cell.threads)
    with imitated(cell.device, model_files(cell.model).bin_path) as group:
        done = flexnn(*arguments, "--quiet", accepted=(0, _EXCEEDED), group=group)
    return {"status": "measured", "found": done.found, "cost": asdict(done.cost)}


def _clocks() -> tuple[float, float]:
    """Seconds that have passed, and those of processors, child processes that have ended included."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return time.monotonic(), sum(one.ru_utime + one.ru_stime for one in used)


def _name(cell: Cell) -> str:
    budget = f" {cell.budget_bytes / 1e6:g} MB" if cell.budget_bytes else ""
    configs = "+".join(cell.configs) if len(cell.configs) < 3 else f"{len(cell.configs)} contestants"
    return f"{cell.experiment}: {Path(cell.model).name} {configs}{budget}"
