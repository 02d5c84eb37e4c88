"""A process of its own whose budget changes while it computes: `python -m flexnn_ncnn.adaptation_worker`.

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

from flexnn_ncnn.options import RunOptions
from flexnn_ncnn.preparation import Request
from flexnn_ncnn.runtime.process_memory import GrowthMeter
from flexnn_ncnn.runtime.serving import Progress, serve
from flexnn_ncnn.session import Session

__all__ = ["main"]


class _Worker:
    """The state between requests."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._inputs: dict[str, npt.NDArray[Any]] = {}
        self._meter = GrowthMeter()
        self._wanted: tuple[int, Future[None]] | None = None

    def open(self, request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        """Load the inputs, and the model within the first budget."""
        self._meter = GrowthMeter()
        self._inputs = {blob: np.load(path) for blob, path in request["inputs"].items()}
        options = RunOptions(**request["options"])
        wanted = Request(Path(request["param"]), Path(request["bin"]), request["budget_bytes"], options)
        self._session = Session(wanted, Path(request["folder"]), progress)
        self._session.prepare(self._inputs)
        return {"exact": self._meter.exact}

    def set_budget(self, request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        """Have the plan for another budget made while inferences go on."""
        assert self._session is not None
        self._wanted = request["budget_bytes"], self._session.plan_ahead(request["budget_bytes"], wait=False)
        return {}

    def run(self, request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        """One inference; where the plan for the budget asked for is made, that comes into force before.

        Raises:
            FlexnnError: the budget asked for cannot work.
        """
        assert self._session is not None
        session, change = self._session, None
        if self._wanted is not None and self._wanted[1].done():
            (budget_bytes, made), self._wanted = self._wanted, None
            made.result()
            session.set_budget(budget_bytes)
            assert session.last_change is not None
            change = {**asdict(session.last_change), "peak_bytes": self._meter.peak_bytes()}
            self._meter.restart()
        session.run(self._inputs)
        return {
            "end_seconds": time.perf_counter(),
            "inference_seconds": session.trace.seconds,
            "budget_bytes": session.budget_bytes,
            "peak_bytes": self._meter.peak_bytes(),
            "held_bytes": self._meter.held_bytes(),
            "streamed_bytes": session.trace.streamed_bytes,
            "resident_bytes": session.plan.resident_bytes,
            "change": change,
        }


def main() -> int:
    """Answer requests until stdin ends."""
    worker = _Worker()
    return serve({"open": worker.open, "set_budget": worker.set_budget, "run": worker.run})


if __name__ == "__main__":
    sys.exit(main())
