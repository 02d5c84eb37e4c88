"""Cells measured one after the other, each in child processes, and kept at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from eval.cells import Cell
from eval.commands import CommandError, flexnn, run_module
from eval.overhead import measure_steps
from eval.results import Results

__all__ = ["measure", "run_cells"]

Progress = Callable[[str, int, int], None]

# Statuses of `flexnn` that stand for something found out: no plan can keep the budget.
_REFUSED = 3


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
        result = (measured_by or measure)(cell)
        if result["status"] == "failed":
            failures.append(result["message"])
        results.append(cell, {"at": datetime.now(timezone.utc).isoformat(timespec="seconds"), **result})
    if progress is not None:
        progress("measured", len(missing), len(missing))
    return failures


def measure(cell: Cell) -> dict[str, Any]:
    """What is found of a cell: its status, "measured", "refused" or "failed", and what goes with that."""
    try:
        if cell.experiment == "overhead":
            return {"status": "measured", "found": measure_steps(cell)}
        timing = ("--loops", cell.loops, "--warmup", cell.warmups, "--threads", cell.threads)
        if cell.configs == ("shipped",):
            done = run_module("eval.shipped", [cell.model, *map(str, timing)])
        else:
            configs = [part for config in cell.configs for part in ("--config", config)]
            budget = () if cell.budget_bytes is None else ("--budget", cell.budget_bytes)
            done = flexnn("bench", cell.model, *configs, *budget, *timing, "--quiet")
    except CommandError as error:
        refused = error.status == _REFUSED
        return {"status": "refused" if refused else "failed", "message": error.message, "exit_status": error.status}
    return {"status": "measured", "found": done.found, "cost": asdict(done.cost)}


def _name(cell: Cell) -> str:
    budget = f" {cell.budget_bytes / 1e6:g} MB" if cell.budget_bytes else ""
    return f"{cell.experiment}: {Path(cell.model).name} {'+'.join(cell.configs)}{budget}"
