"""A process of its own whose budget changes while it computes: `python -m flexnn_ncnn.measuring.adaptation_worker`.

Memory counts from the idle process on, as in `flexnn_ncnn.runtime.worker`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flexnn_ncnn.preparing.preparation import Request
from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.runtime.memory.process_memory import GrowthMeter
from flexnn_ncnn.runtime.native import mat_to_array
from flexnn_ncnn.runtime.serving import Progress, serve
from flexnn_ncnn.sessions.active_plan import BudgetChange
from flexnn_ncnn.sessions.session import Session

__all__ = ["main"]


class _Worker:
    """The state between requests."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._inputs: dict[str, npt.NDArray[Any]] = {}
        self._meter = GrowthMeter()
        self._asked: Future[None] | None = None
        # a change that no inference has told yet, and what the last inference tells
        self._change: dict[str, Any] | None = None
        self._told: dict[str, Any] = {}

    def open(self, request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        """Load the inputs, and the model within the first budget."""
        self._meter = GrowthMeter()
        self._inputs = {blob: np.load(path) for blob, path in request["inputs"].items()}
        options = RunOptions(**request["options"])
        wanted = Request(Path(request["param"]), Path(request["bin"]), request["budget_bytes"], options)
        self._session = Session(wanted, Path(request["folder"]), progress, self._changed)
        self._session.prepare(self._inputs)
        return {"exact": self._meter.exact}

    def set_budget(self, request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        """Ask for another budget; inferences go on meanwhile."""
        assert self._session is not None
        self._asked = self._session.set_budget(request["budget_bytes"], wait=False)
        return {}

    def run(self, request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        """One inference; a change of budget that is ready comes before it.

        Raises:
            FlexnnError: the budget asked for cannot work.
        """
        assert self._session is not None
        if self._asked is not None and self._asked.done():
            self._asked.result()
            self._asked = None
        self._told, begin = {"change": None}, time.perf_counter()
        self._session.run(self._inputs, self._hand_out)
        end = time.perf_counter()
        seconds = self._session.trace.seconds
        return {"begin_seconds": begin, "end_seconds": end, "inference_seconds": seconds, **self._told}

    def _hand_out(self, *output: Any) -> npt.NDArray[Any]:
        """An output as an array; in the inference's turn, so that what is told is of this inference and no other."""
        session = self._session
        assert session is not None
        array: npt.NDArray[Any] = mat_to_array(*output)
        self._told = {
            "budget_bytes": session.budget_bytes,
            "peak_bytes": self._meter.peak_bytes(),
            "held_bytes": self._meter.held_bytes(),
            "streamed_bytes": session.trace.streamed_bytes,
            "resident_bytes": session.plan.resident_bytes,
            "change": self._change or self._told["change"],
        }
        self._change = None
        return array

    def _changed(self, change: BudgetChange) -> None:
        """A change of budget, in its turn."""
        self._change = {**asdict(change), "peak_bytes": self._meter.peak_bytes()}
        self._meter.restart()


def main() -> int:
    """Answer requests until stdin ends."""
    worker = _Worker()
    return serve({"open": worker.open, "set_budget": worker.set_budget, "run": worker.run})


if __name__ == "__main__":
    sys.exit(main())
