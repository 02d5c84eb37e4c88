"""The library's front door: a model, a budget, and as many inferences as you like."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from flexnn_ncnn.errors import PlanError, UsageError
from flexnn_ncnn.model_inputs import as_blobs, input_specs
from flexnn_ncnn.options import RunOptions
from flexnn_ncnn.plan import Plan
from flexnn_ncnn.preparation import Progress, Request, prepare
from flexnn_ncnn.runtime.trace import Trace
from flexnn_ncnn.runtime.vehicles import Vehicle, open_plan
from flexnn_ncnn.units import parse_size
from param_tools.model_io import default_bin_path, open_model

__all__ = ["Session", "open_session"]

_Shapes = dict[str, tuple[tuple[int, ...], str]]


def open_session(
    param: str | os.PathLike[str],
    bin: str | os.PathLike[str] | None = None,
    *,
    budget: str | int,
    threads: int = 1,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Session:
    """Open a model to be run within a budget.

    Args:
        param: the .param.
        bin: the .bin; by default beside the .param, under the same name.
        budget: bytes that inference may hold beyond the idle process, such as 100_000_000, "100MB" or "64MiB".
        threads: compute threads.
        cache_dir: where plans are kept, by default the platform's cache folder.
        progress: called with (what, done, of) while a plan is made.

    Returns:
        A session; close it, or use it as a context manager.

    Raises:
        SizeError: the budget is no size.
        UsageError: fewer than one thread.
        ModelFormatError: either file is missing or damaged.
        UnsupportedLayerError: a layer of a type that ncnn does not have.
    """
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise UsageError(f"{threads!r} threads cannot compute", hint="give 1 or more")
    bin_path = default_bin_path(param) if bin is None else Path(bin)
    request = Request(Path(param), bin_path, parse_size(budget), RunOptions(num_threads=threads))
    return Session(request, Path(cache_dir) if cache_dir is not None else None, progress)


class Session:
    """An open model; from `open_session`. Use it from one thread at a time."""

    def __init__(self, request: Request, cache_dir: Path | None, progress: Progress | None) -> None:
        self._request, self._cache_dir, self._progress = request, cache_dir, progress
        self._vehicle: Vehicle | None = None
        self._shapes: _Shapes = {}
        self._closed = False
        with open_model(request.param_path, request.bin_path) as model:
            self._inputs = input_specs(model.model)

    @property
    def input_names(self) -> tuple[str, ...]:
        """The blobs to feed."""
        return tuple(spec.blob for spec in self._inputs)

    @property
    def plan(self) -> Plan:
        """What is done in an inference.

        Raises:
            PlanError: there is none before `prepare` or the first `run`.
        """
        return self._running().plan

    @property
    def trace(self) -> Trace:
        """What was done in the last inference.

        Raises:
            PlanError: there was none.
        """
        return self._running().trace

    def prepare(self, inputs: Mapping[str, npt.ArrayLike]) -> Plan:
        """Plan for inputs of these shapes and load what stays in memory, so that `run` need not.

        Args:
            inputs: as for `run`; the values do not matter.

        Raises:
            FlexnnError: as `run`.
        """
        return self._prepared(as_blobs(self._inputs, inputs)).plan

    def run(self, inputs: Mapping[str, npt.ArrayLike]) -> dict[str, npt.NDArray[Any]]:
        """One inference; the first one, and the first with inputs of other shapes, also plan.

        Args:
            inputs: per input blob an array of 1 to 4 dimensions, outermost first and without a batch, such as
                (channels, height, width). Real numbers of any type become float32, ids int32.

        Returns:
            Output blob name -> float32 array.

        Raises:
            InputError: an input is missing, unknown, or none that the network can take.
            BudgetError: the budget cannot work; the smallest that does is in it.
            ProfileError, WorkerError: a layer cannot be run, or crashed ncnn.
        """
        arrays = as_blobs(self._inputs, inputs)
        return self._prepared(arrays).run(arrays)

    def close(self) -> None:
        """Free the model's memory; closing twice is fine."""
        self._release()
        self._closed = True

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _prepared(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Vehicle:
        if self._closed:
            raise UsageError("the session is closed", hint="open another one")
        shapes = {blob: (array.shape, array.dtype.str) for blob, array in arrays.items()}
        if self._vehicle is None or shapes != self._shapes:
            self._release()
            plan, _ = prepare(self._request, arrays, self._progress, folder=self._cache_dir)
            self._vehicle, self._shapes = open_plan(plan, self._request.param_path, self._request.bin_path), shapes
        return self._vehicle

    def _running(self) -> Vehicle:
        if self._vehicle is None:
            raise PlanError("the session has no plan yet", hint="run it, or call prepare with the inputs first")
        return self._vehicle

    def _release(self) -> None:
        if self._vehicle is not None:
            self._vehicle.close()
            self._vehicle = None
