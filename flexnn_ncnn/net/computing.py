"""Which blobs are computed together, and the one session at a time that computes them."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt

from flexnn_ncnn.errors import PlanError, UsageError
from flexnn_ncnn.layout import BlobLayout
from flexnn_ncnn.net.graph import Graph
from flexnn_ncnn.options import RunOptions
from flexnn_ncnn.preparation import Progress, Request
from flexnn_ncnn.runtime import native
from flexnn_ncnn.session import Session
from param_tools.errors import ModelFormatError
from param_tools.excerpt import excerpt
from param_tools.model_io import read_param

__all__ = ["Computed", "Computing", "Task"]

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Computed:
    """A blob that was computed.

    Attributes:
        mat: its values as ncnn extracts them, float32 and unpacked.
        layout: how it lay before; None for an empty blob.
    """

    mat: native.Mat
    layout: BlobLayout | None


@dataclass(frozen=True, slots=True)
class Task:
    """What one plan is for.

    Attributes:
        feeds: blobs to be fed; none for the network's inputs.
        outputs: blobs computed; none for the network's outputs.
        reads: blobs to be fed, whichever they are.
    """

    feeds: tuple[str, ...]
    outputs: tuple[str, ...]
    reads: tuple[str, ...]


@dataclass
class Computing:
    """A loaded model under a budget; threads may share it.

    The network's outputs are computed together, as most callers want all. Another blob is computed alone when it is
    the first that is asked for; what is asked for after it, of the same data, is computed along from then on.

    Attributes:
        param_path: the layers.
        graph: their blobs; none once the net was cleared.
        budget_bytes: what inference may hold; 0 for what the system allows.
        cache_dir: where plans are kept, None for the platform's cache folder.
        progress: called with (what, done, of) while a plan is made.
        bin_path: the weights, None before they are loaded.
    """

    param_path: Path
    graph: Graph
    budget_bytes: int
    cache_dir: Path | None
    progress: Progress | None
    bin_path: Path | None = None
    _tasks: dict[tuple[str, frozenset[str]], Task | None] = field(default_factory=dict)
    _doing: tuple[RunOptions, Task] | None = None
    _session: Session | None = None
    _lock: Any = field(default_factory=threading.RLock)
    _process: int = field(default_factory=os.getpid)

    @property
    def session(self) -> Session:
        """The session of the last inference.

        Raises:
            PlanError: there was none.
        """
        if self._session is None:
            raise PlanError("the net has no plan yet", hint="extract a blob first")
        return self._session

    def compute(
        self, options: RunOptions, feeds: Arrays, blob: str, before: Collection[str] = ()
    ) -> dict[str, Computed] | None:
        """One inference.

        Args:
            options: how to compute.
            feeds: an array per blob that was fed.
            blob: the blob that is asked for.
            before: blobs of the same data that were asked for before it, in their order.

        Returns:
            That blob and those computed with it; None where `feeds` do not suffice for it.

        Raises:
            UsageError: no weights are loaded, or this is a child of the process that loaded the model.
            FlexnnError: as `Session.run`.
        """
        if os.getpid() != self._process:  # before the lock, which nobody may be left to open here
            raise UsageError(
                "the net was loaded before this process was forked off, and its memory and threads are the parent's",
                hint="load it in the child, or start the child with multiprocessing's 'spawn'",
            )
        with self._lock:
            if self.bin_path is None:
                raise UsageError("no weights are loaded", hint="call load_model, and look at what it returns")
            task = self._task(frozenset(feeds), blob, before)
            if task is None:
                return None
            session = self._session_for(self.bin_path, options, task)
            try:
                return session.run({name: feeds[name] for name in task.reads}, _hand_out)
            except ModelFormatError:
                self._close_session()  # the file changed: the next inference begins with what is there then
                raise

    def set_budget(self, budget: str | int, budget_bytes: int, wait: bool) -> Future[None]:
        """Change the budget, from any thread; without waiting for the lock, which an inference holds.

        Args:
            budget: as `Session.set_budget` takes it.
            budget_bytes: the same in bytes, 0 for "auto".
            wait: see `Session.set_budget`.
        """

        def keep(done: Future[None]) -> None:
            if done.exception() is None:
                self.budget_bytes = budget_bytes

        session = self._session
        change: Future[None] = Future()
        if session is None:
            change.set_result(None)
        else:
            change = session.set_budget(budget, wait=wait)
        change.add_done_callback(keep)
        return change

    def unload(self) -> None:
        """Let go of the weights."""
        with self._lock:
            self._close_session()
            self.bin_path = None

    def close(self) -> None:
        """Let go of everything; extractors find no blobs from then on."""
        self.unload()
        self.graph = Graph()
        self._tasks.clear()

    def __del__(self) -> None:
        session = getattr(self, "_session", None)
        if session is not None:
            with suppress(Exception):  # the interpreter may be ending
                session.close()

    def _session_for(self, bin_path: Path, options: RunOptions, task: Task) -> Session:
        if self._session is None or self._doing != (options, task):
            self._close_session()
            request = Request(
                self.param_path, bin_path, self.budget_bytes, options, feeds=task.feeds, outputs=task.outputs
            )
            self._session, self._doing = Session(request, self.cache_dir, self.progress), (options, task)
        return self._session

    def _close_session(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session = self._doing = None

    def _task(self, fed: frozenset[str], blob: str, before: Collection[str]) -> Task | None:
        first = next(iter(before), blob)
        key = (first, fed)
        known = self._tasks.get(key)
        if known is not None and not before:
            return known
        together = {*before, blob, *(known.outputs if known else ())}
        own = self.graph.output_names
        if together.intersection(own):
            together.update(own)
        found = self._find_task(fed, blob, together)
        if found is not None:
            self._tasks[key] = found
        return found

    def _find_task(self, fed: frozenset[str], blob: str, together: Collection[str]) -> Task | None:
        """The task for those of `together` that can be computed; None where `blob` cannot be."""
        model = read_param(self.param_path)
        known = excerpt(model, feeds=fed).model.producers
        outputs = tuple(name for name in model.producers if name in known and name in together and name not in fed)
        if blob not in outputs:
            return None
        reads = excerpt(model, feeds=fed, outputs=outputs).model.input_blobs
        if reads == model.input_blobs and outputs == model.output_blobs:
            return Task((), (), reads)
        return Task(reads, outputs, reads)


def _hand_out(mat: native.Mat, bf16: bool, forget: native.Forget | None) -> Computed:
    layout = native.layout_of(mat)
    return Computed(native.extracted(mat, bf16, forget), layout)
