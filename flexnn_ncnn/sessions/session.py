"""The library's front door: a model, a budget, and as many inferences as you like."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from flexnn_ncnn.errors import ModelChangedError, PlanError, UsageError
from flexnn_ncnn.model_inputs import as_blobs, input_specs
from flexnn_ncnn.preparing.preparation import Progress, Request, open_part
from flexnn_ncnn.records.input_spec import InputSpec
from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.records.plan import Plan
from flexnn_ncnn.records.storage import checked_page_cache
from flexnn_ncnn.runtime.native import HandOut, mat_to_array
from flexnn_ncnn.runtime.trace import Trace
from flexnn_ncnn.runtime.vehicles import Vehicle
from flexnn_ncnn.sessions.active_plan import ActivePlan, BudgetChange, OnChange
from flexnn_ncnn.sessions.changing import change_beside
from flexnn_ncnn.sessions.turns import Turns
from flexnn_ncnn.units import parse_size
from param_tools.model_io import default_bin_path

if TYPE_CHECKING:
    from flexnn_ncnn.sessions.following import Follower

__all__ = ["Session", "open_session"]

AUTO = "auto"


def open_session(
    param: str | os.PathLike[str],
    bin: str | os.PathLike[str] | None = None,
    *,
    budget: str | int,
    threads: int = 1,
    page_cache: str = "mmap",
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    on_change: OnChange | None = None,
) -> Session:
    """Open a model to be run within a budget.

    Args:
        param: the .param.
        bin: the .bin; by default beside the .param, under the same name.
        budget: bytes that inference may hold beyond the idle process, such as 100_000_000, "100MB" or "64MiB"; "auto"
            for what the system's memory allows at each moment.
        threads: compute threads.
        page_cache: how weights are read that do not stay in memory: "mmap" through the system's page cache, or "direct"
            past it, into memory that the budget counts. With "direct" nothing is held anywhere else, which is what a
            memory limit asks for that counts the page cache too.
        cache_dir: where plans are kept, by default the platform's cache folder.
        progress: called with (what, done, of) while a plan is made, from the thread that waits for it.
        on_change: called with what every change of budget took, before the next inference.

    Returns:
        A session; close it, or use it as a context manager.

    Raises:
        SizeError: the budget is no size.
        UsageError: fewer than one thread, another page cache, or "auto" where the system does not tell its memory.
        ModelFormatError: either file is missing or damaged.
        UnsupportedLayerError: a layer of a type that ncnn does not have.
    """
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise UsageError(f"{threads!r} threads cannot compute", hint="give 1 or more")
    bin_path = default_bin_path(param) if bin is None else Path(bin)
    budget_bytes = 0 if budget == AUTO else parse_size(budget)
    options = RunOptions(num_threads=threads)
    request = Request(Path(param), bin_path, budget_bytes, options, page_cache=checked_page_cache(page_cache))
    return Session(request, Path(cache_dir) if cache_dir is not None else None, progress, on_change)


class Session:
    """An open model; from `open_session`. Threads may share it: inferences are made one at a time."""

    def __init__(
        self, request: Request, cache_dir: Path | None, progress: Progress | None, on_change: OnChange | None = None
    ) -> None:
        self._active = ActivePlan(request, cache_dir, progress, on_change)
        self._turns = Turns()
        self._follower: Follower | None = None
        # budgets in the order in which they were asked for, and the last of them that is in force
        self._numbers, self._newest = itertools.count(1), 0
        self._closed = False
        self._trace: Trace | None = None
        if not request.budget_bytes:
            self._follow_memory()
        with open_part(request, request.feeds or None, request.outputs or None) as model:
            self._inputs = input_specs(model.model)

    @property
    def input_names(self) -> tuple[str, ...]:
        """The blobs to feed."""
        return tuple(spec.blob for spec in self._inputs)

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """What to feed."""
        return self._inputs

    @property
    def budget_bytes(self) -> int:
        """The budget in force; 0 for "auto" before the first inference."""
        return self._active.request.budget_bytes

    @property
    def last_change(self) -> BudgetChange | None:
        """The last budget that took the place of another while the model was loaded."""
        return self._active.last_change

    @property
    def plan(self) -> Plan:
        """What is done in an inference.

        Raises:
            PlanError: there is none before `prepare` or the first `run`.
        """
        plan = self._active.plan
        if plan is None:
            raise PlanError("the session has no plan yet", hint="run it, or call prepare with the inputs first")
        return plan

    @property
    def trace(self) -> Trace:
        """What was done in the last inference.

        Raises:
            PlanError: there was none.
        """
        if self._trace is None:
            raise PlanError("the session has made no inference yet", hint="run it first")
        return self._trace

    def prepare(self, inputs: Mapping[str, npt.ArrayLike]) -> Plan:
        """Plan for inputs of these shapes and load what stays in memory, so that `run` need not.

        Args:
            inputs: as for `run`; the values do not matter.

        Raises:
            FlexnnError: as `run`.
        """
        arrays = as_blobs(self._inputs, inputs)
        with self._turns.use():
            return self._prepared(arrays).plan

    def run(self, inputs: Mapping[str, npt.ArrayLike], hand_out: HandOut = mat_to_array) -> dict[str, Any]:
        """One inference; the first one, and the first with inputs of other shapes, also plan.

        Args:
            inputs: per input blob an array of 1 to 4 dimensions, outermost first and without a batch, such as
                (channels, height, width). Real numbers of any type become float32, ids int32.
            hand_out: makes of an output blob what you get; by default an array.

        Returns:
            Output blob name -> float32 array.

        Raises:
            InputError: an input is missing, unknown, or none that the network can take.
            BudgetError: the budget cannot work; the smallest that does is in it.
            ProfileError, WorkerError: a layer cannot be run, or crashed ncnn.
            ModelChangedError: the .bin was written to or replaced; the next run opens it anew.
        """
        arrays = as_blobs(self._inputs, inputs)
        with self._turns.use():
            vehicle = self._prepared(arrays)
            self._trace = vehicle.trace
            try:
                return vehicle.run(arrays, hand_out)
            except ModelChangedError:
                self._active.release()  # the next inference begins with what is there then
                raise

    def set_budget(self, budget: str | int, *, wait: bool = True) -> Future[None]:
        """Change to another budget, from any thread.

        An inference that is going on ends as it began. The new plan comes from the cache, or is made in a child process
        while inferences of other threads go on; what a larger budget will keep is loaded between those, a little at a
        time. Then it takes the place of the old one between two inferences. Weights that both keep stay loaded, memory
        that the new one does not need goes back to the system, and no more than the larger budget is held meanwhile. Of
        several calls at once the last one counts.

        Args:
            budget: as for `open_session`.
            wait: return when the budget is in force; else at once, so that the calling thread can go on with
                inferences while the plan is made.

        Returns:
            Done once the budget, or one that was set after it, is in force; with `wait` it is so already. Without,
            what is raised with `wait` is in it.

        Raises:
            SizeError: the budget is no size.
            BudgetError: it cannot work; the budget before it stays in force.
            UsageError: the session is closed, or in the middle of an inference of this very thread.
            FlexnnError: as `run`.
        """
        number = next(self._numbers)
        if budget == AUTO:
            self._newest = number
            self._follow_memory()
            return _done(lambda: None, wait=True)
        budget_bytes = parse_size(budget)
        if wait:
            self._turns.refuse_holder()
        return _done(lambda: self._change_budget(budget_bytes, number), wait)

    def plan_ahead(self, budget: str | int, *, wait: bool = True) -> Future[None]:
        """Have the plan for a budget made, so that `set_budget` need not; from any thread.

        Args:
            budget: in bytes, or as text such as "100MB".
            wait: return when it is made; else at once.

        Returns:
            Done once it is made; without `wait` what is raised with it is in there.

        Raises:
            SizeError: the budget is no size.
            PlanError: nothing has told the inputs' shapes yet.
            BudgetError: it cannot work.
            FlexnnError: as `run`.
        """
        request, sample = self._active.within(parse_size(budget)), self._active.sample
        if sample is None:
            raise PlanError("nothing has told the inputs' shapes yet", hint="run it, or call prepare with inputs first")
        return _done(lambda: self._active.prepare_ahead(request, sample), wait)

    def close(self) -> None:
        """Free the model's memory; closing twice is fine."""
        with self._turns.change():
            self._closed = True
            if self._follower is not None:
                self._follower.stop()
            self._active.release()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _prepared(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Vehicle:
        self._refuse_closed()
        active = self._active
        if active.vehicle is not None and active.sample is not None and not active.sample.fits(arrays):
            active.release()
        if self._follower is not None:
            self._follower.follow(arrays)
        elif active.vehicle is None:
            active.open(active.request, arrays)
        assert active.vehicle is not None
        return active.vehicle

    def _change_budget(self, budget_bytes: int, number: int) -> None:
        active = self._active

        def is_wanted() -> bool:
            self._refuse_closed()
            return number >= self._newest

        def in_force() -> None:
            self._newest = number
            if self._follower is not None:
                self._follower.stop()
                self._follower = None

        self._refuse_closed()
        while number >= self._newest:
            request, sample = active.within(budget_bytes), active.sample
            if change_beside(active, self._turns, request, sample, is_wanted, in_force):
                return

    def _follow_memory(self) -> None:
        from flexnn_ncnn.runtime.memory.memory_limits import MemoryLimits
        from flexnn_ncnn.sessions.auto_budget import AutoBudget
        from flexnn_ncnn.sessions.following import Follower

        limits = MemoryLimits()
        if limits.read() is None:
            raise UsageError("this system does not tell how much memory there is", hint="give a budget in bytes")
        self._follower = Follower(self._active, self._turns, AutoBudget(limits.read))

    def _refuse_closed(self) -> None:
        if self._closed:
            raise UsageError("the session is closed", hint="open another one")


def _done(work: Callable[[], None], wait: bool) -> Future[None]:
    """What has been done, or is being done in a thread of its own."""
    future: Future[None] = Future()
    if wait:
        work()
        future.set_result(None)
        return future

    def run() -> None:
        try:
            work()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(None)

    threading.Thread(target=run, name="flexnn-budget", daemon=True).start()
    return future
