"""Ways to run a model, each as what a process of its own is to open: stock ncnn, layer streaming, and this package with
and without parts of what it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy.typing as npt

from flexnn_ncnn.errors import BudgetError
from flexnn_ncnn.measuring.rounds import Contestant
from flexnn_ncnn.planning.ablation import (
    without_kernel_choice,
    without_memory_plan,
    without_preloading,
    without_slicing,
)
from flexnn_ncnn.planning.on_demand import on_demand
from flexnn_ncnn.preparing.assemble import assemble_plan
from flexnn_ncnn.preparing.preparation import Progress, Request, open_part, prepare
from flexnn_ncnn.preparing.transformed import TransformedFile
from flexnn_ncnn.records.formats import write_plan
from flexnn_ncnn.records.plan import Plan
from flexnn_ncnn.scheduling.scheduler import Scheduler
from flexnn_ncnn.units import format_budget
from param_tools.model_io import NcnnModel

__all__ = ["CONFIGS", "Contestants", "needs_budget"]

Arrays = Mapping[str, npt.NDArray[Any]]

CONFIGS: dict[str, str] = {
    "stock": "stock ncnn",
    "stock-no-winograd": "stock ncnn without winograd",
    "stock-direct": "stock ncnn without winograd and sgemm",
    "ondemand": "each layer loaded whole, computed and released, its memory given back",
    "flexnn": "this package within the budget",
    "flexnn-no-preload": "the same, nothing read or loaded before it is needed",
    "flexnn-no-memplan": "the same, memory taken as it comes instead of by plan; keeps no budget",
    "flexnn-neither": "the same without either of these",
    "flexnn-no-kernel-choice": "planned within the budget with ncnn's own kernels alone",
    "flexnn-no-slicing": "planned within the budget with every layer loaded and computed whole",
}
"""What can be measured, and how it runs the model."""

# stock ncnn told a kernel: configuration -> name in `flexnn_ncnn.records.options.KERNELS`
_STOCK_KERNELS = {"stock": "default", "stock-no-winograd": "sgemm", "stock-direct": "direct"}
# plans for the same budget from a profile that knows of less
_NARROWED = {"flexnn-no-kernel-choice": without_kernel_choice, "flexnn-no-slicing": without_slicing}


def needs_budget(config: str) -> bool:
    """Whether a configuration is one of this package's, within a budget."""
    return config.startswith("flexnn")


class Contestants:
    """What each configuration's process is to open; what several need is made once.

    Attributes:
        notes: by configuration, what came up on the way.
    """

    def __init__(self, request: Request, inputs: Arrays, folder: Path, progress: Progress | None) -> None:
        self._request, self._inputs, self._folder, self._progress = request, inputs, folder, progress
        self._files = {"param": str(request.param_path), "bin": str(request.bin_path)}
        self._prepared: Plan | None = None
        self.notes: dict[str, str] = {}

    def of(self, config: str) -> Contestant:
        """The configuration of this name, planned where it has a plan.

        Raises:
            FlexnnError: as `flexnn_ncnn.preparing.preparation.prepare`.
        """
        if config in _STOCK_KERNELS:
            kernel = _STOCK_KERNELS[config]
            opens = {**self._files, "options": asdict(self._request.options), "outputs": self._outputs()}
            return Contestant(config, opens | ({"kernel": kernel} if kernel != "default" else {}))
        return self._planned(config, *self._plan(config))

    def _planned(self, config: str, plan: Plan, returns_memory: bool) -> Contestant:
        path = self._folder / f"{config}.plan.json"
        write_plan(plan, path)
        return Contestant(config, {**self._files, "plan": str(path), "return_memory": returns_memory})

    def _plan(self, config: str) -> tuple[Plan, bool]:
        """A configuration's plan, and whether what it frees goes back to the system."""
        if config == "ondemand":
            return self._on_demand(), True
        plan = self._within_budget()
        if config == "flexnn":
            return plan, False
        if config in _NARROWED:
            return self._narrowed(config), False
        changed = plan
        if config != "flexnn-no-memplan":
            changed = without_preloading(changed)
        if config != "flexnn-no-preload":
            changed = without_memory_plan(changed)
        if changed == plan:
            what = "stock ncnn throughout" if plan.vehicle == "net" else "nothing ahead of need"
            self.notes[config] = f"the same as flexnn: its plan does {what}"
        return changed, False

    def _within_budget(self) -> Plan:
        if self._prepared is None:
            self._prepared, _ = prepare(self._request, self._inputs, self._progress)
        return self._prepared

    def _narrowed(self, config: str) -> Plan:
        """The plan that a planner who knows of less makes for the same budget, or for the smallest it can keep."""
        whole = Scheduler.of_model(self._request, self._inputs, self._progress)
        scheduler = whole.narrowed(_NARROWED[config](whole.profile))
        budget_bytes = self._request.budget_bytes
        try:
            decided = scheduler.schedule(budget_bytes)
        except BudgetError as error:
            decided = scheduler.schedule(error.smallest_bytes)
            self.notes[config] = f"cannot keep the budget; within {format_budget(error.smallest_bytes)}, its smallest"
        with self._opened() as opened:
            return TransformedFile(self._folder).supply(assemble_plan(opened, decided), opened.bin_path)

    def _on_demand(self) -> Plan:
        scheduler = Scheduler.of_model(self._request, self._inputs, self._progress)
        with self._opened() as opened:
            return without_memory_plan(assemble_plan(opened, on_demand(scheduler.work, scheduler.base_bytes)))

    def _outputs(self) -> Sequence[str]:
        with self._opened() as opened:
            return opened.model.output_blobs

    def _opened(self) -> NcnnModel:
        return open_part(self._request, self._inputs, self._request.outputs or None)
