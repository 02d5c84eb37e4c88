"""A loaded model under a budget, and the one session at a time that computes its blobs."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flexnn_ncnn.errors import InputError, PlanError, UsageError
from flexnn_ncnn.net.custom import CustomLayers
from flexnn_ncnn.net.graph import Graph
from flexnn_ncnn.net.tasks import Task, Tasks
from flexnn_ncnn.preparing.preparation import Progress, Request
from flexnn_ncnn.records.input_spec import InputSpec
from flexnn_ncnn.records.layout import BlobLayout
from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.runtime import native
from flexnn_ncnn.sessions.session import Session

__all__ = ["Computed", "Computing"]

Feeds = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Computed:
    """A blob that was computed.

    Attributes:
        mat: its values as ncnn extracts them, float32 and unpacked.
        layout: how it lay before; None for an empty blob.
    """

    mat: native.Mat
    layout: BlobLayout | None

    @classmethod
    def copied(cls, mat: native.Mat, bf16: bool) -> Computed:
        """The blob in any Mat."""
        return cls(native.extracted(mat, bf16), native.layout_of(mat))


def _array_of(value: Any, spec: InputSpec, bf16: bool) -> npt.NDArray[Any]:
    """What was fed, as an array; a Mat does not know whether it holds integers."""
    if not native.is_mat(value):
        return np.asarray(value)
    array = native.array_of(value, bf16)
    return array.view(np.int32) if spec.dtype == "int32" and array.itemsize == 4 else array


def _mat_of(value: Any) -> native.Mat:
    return value if native.is_mat(value) else native.mat_of(np.asarray(value))


@dataclass
class Computing:
    """A loaded model under a budget; threads may share it.

    Attributes:
        param_path: the layers.
        graph: their blobs; none once the net was cleared.
        budget_bytes: what inference may hold; 0 for what the system allows.
        cache_dir: where plans are kept, None for the platform's cache folder.
        progress: called with (what, done, of) while a plan is made.
        custom: layers that no plan computes.
        bin_path: the weights, None before they are loaded.
        page_cache: how weights are read, see `Net`.
    """

    param_path: Path
    graph: Graph
    budget_bytes: int
    cache_dir: Path | None
    progress: Progress | None
    custom: CustomLayers
    bin_path: Path | None = None
    page_cache: str = "mmap"
    _doing: tuple[RunOptions, Task] | None = None
    _session: Session | None = None
    _lock: Any = field(default_factory=threading.RLock)
    _process: int = field(default_factory=os.getpid)

    def __post_init__(self) -> None:
        self._tasks = Tasks(self.param_path, self.graph)

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
        self, options: RunOptions, feeds: Feeds, blob: str, before: Collection[str] = ()
    ) -> dict[str, Computed] | None:
        """One inference.

        Args:
            options: how to compute.
            feeds: an array or an ncnn.Mat per blob that was fed.
            blob: the blob that is asked for.
            before: blobs of the same data that were asked for before it, in their order.

        Returns:
            That blob and those computed with it; None where `feeds` do not suffice for it.

        Raises:
            UsageError: no weights are loaded, or this is a child of the process that loaded the model.
            LayerFailedError: a custom layer returned a code.
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
            found: dict[str, Computed] = {}
            for layer in self.custom.needed((blob,), feeds):
                if not self._find(options, feeds, found, layer.inputs):
                    return None
                bottoms = [found[name].mat if name in found else _mat_of(feeds[name]) for name in layer.inputs]
                for name, mat in self.custom.compute(layer, bottoms).items():
                    found[name] = Computed.copied(mat, options.bf16)
            return found if self._find(options, feeds, found, (blob,), before) else None

    def _find(
        self,
        options: RunOptions,
        feeds: Feeds,
        found: dict[str, Computed],
        blobs: Sequence[str],
        before: Collection[str] = (),
    ) -> bool:
        """Compute into `found` what of `blobs` is neither there nor fed; False where what is known does not suffice."""
        missing = [blob for blob in blobs if blob not in feeds and blob not in found]
        if not missing:
            return True
        known = {name: one.mat for name, one in found.items()} | dict(feeds)
        task = self._tasks.find(known, missing, before)
        if task is None:
            return False
        try:
            found |= self._run(options, known, task)
        except InputError:  # what else would be computed along may not take inputs of this shape
            alone = self._tasks.narrow(known, missing, before)
            if alone is None or alone == task:
                raise
            found |= self._run(options, known, alone)
        return True

    def _run(self, options: RunOptions, known: Feeds, task: Task) -> dict[str, Computed]:
        session = self._session_for(options, task)
        arrays = {spec.blob: _array_of(known[spec.blob], spec, options.bf16) for spec in session.inputs}
        return session.run(arrays, _hand_out)

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
        self.custom.close()

    def __del__(self) -> None:
        session = getattr(self, "_session", None)
        if session is not None:
            with suppress(Exception):  # the interpreter may be ending
                session.close()

    def _session_for(self, options: RunOptions, task: Task) -> Session:
        assert self.bin_path is not None
        if self._session is None or self._doing != (options, task):
            self._close_session()
            request = Request(
                self.param_path,
                self.bin_path,
                self.budget_bytes,
                options,
                feeds=task.feeds,
                outputs=task.outputs,
                page_cache=self.page_cache,
            )
            self._session, self._doing = Session(request, self.cache_dir, self.progress), (options, task)
        return self._session

    def _close_session(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session = self._doing = None


def _hand_out(mat: native.Mat, bf16: bool, forget: native.Forget | None) -> Computed:
    layout = native.layout_of(mat)
    return Computed(native.extracted(mat, bf16, forget), layout)
