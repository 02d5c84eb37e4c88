"""From a model and a budget to a plan that was seen to keep it; profiles and plans are cached on disk.

A plan that is there costs the import of ncnn and numpy; one that is not is made in a child process.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy.typing as npt

from flexnn_ncnn.errors import PlanError, ProfileError
from flexnn_ncnn.paths import cache_dir
from flexnn_ncnn.records.fingerprint import machine_fingerprint, model_identity
from flexnn_ncnn.records.formats import has_plan, read_plan, read_profile
from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.records.plan import Plan
from flexnn_ncnn.records.profile import ModelProfile
from flexnn_ncnn.records.sha256 import sha256
from flexnn_ncnn.runtime import native
from flexnn_ncnn.runtime.weights.origin import serves
from param_tools.errors import FlexnnError, FormatVersionError
from param_tools.excerpt import excerpt
from param_tools.model_io import NcnnModel, atomic_write, open_model

__all__ = ["PlanCache", "Progress", "Request", "ask_preparer", "is_prepared", "open_part", "prepare", "prepare_ahead"]

Arrays = Mapping[str, npt.NDArray[Any]]
Progress = Callable[[str, int, int], None]
Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class Request:
    """What to run, and within what.

    Attributes:
        param_path, bin_path: the model.
        budget_bytes: what inference may hold beyond the idle process.
        options: how to compute.
        feeds: blobs to be fed, inputs or not; none for the network's inputs.
        outputs: blobs wanted, in any place of the network; none for its outputs.
        page_cache: whether streamed weights are read through it, a name in `flexnn_ncnn.records.storage.PAGE_CACHES`.
    """

    param_path: Path
    bin_path: Path
    budget_bytes: int
    options: RunOptions
    feeds: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    page_cache: str = "mmap"


def open_part(request: Request, feeds: Collection[str] | None, outputs: Collection[str] | None = None) -> NcnnModel:
    """The layers of a requested model that can be computed from some blobs.

    Args:
        request: names the files.
        feeds: the blobs; None for the network's inputs.
        outputs: blobs wanted, which narrows it further; None for all that can be computed.

    Raises:
        ModelFormatError: the files cannot be read, or do not belong together.
        FlexnnError: `feeds` do not suffice for `outputs`.
    """
    opened = open_model(request.param_path, request.bin_path)
    if outputs is None and (feeds is None or set(feeds) == set(opened.model.input_blobs)):
        return opened
    try:
        part = excerpt(opened.model, feeds=feeds, outputs=outputs)
    except FlexnnError:
        opened.close()
        raise
    return replace(opened, model=part.model, weights=opened.weights.of_layers(part.indices))


def prepare(
    request: Request,
    inputs: Arrays,
    progress: Progress | None = None,
    *,
    folder: Path | None = None,
) -> tuple[Plan, Path]:
    """A plan for `request` and where it is kept.

    A plan found in the cache is used as it is; a damaged or foreign one is made again. A new one is tried in a child
    process, and planned again with what the trial showed, until its measured peak is within the budget.

    Args:
        request: what to run.
        inputs: an array per input blob: shapes are planned for, values are used to profile.
        progress: called with (what, done, of).
        folder: cache folder, by default the platform's.

    Raises:
        BudgetError: no plan keeps the budget; the smallest that works is in it.
        ModelFormatError, InputError, ProfileError: the model or an input is bad.
        WorkerError: ncnn crashed on it.
    """
    cache = PlanCache.of(request, inputs, folder or cache_dir())
    path = cache.plan_path(request.budget_bytes, request.page_cache)
    found = _read_or_none(read_plan, path)
    is_ours = found is not None and (found.model_id, found.budget_bytes) == (cache.model_id, request.budget_bytes)
    if found is None or not is_ours or not serves(found, request.bin_path):
        ask_preparer("prepare", request, inputs, folder or cache_dir(), progress)
        found = read_plan(path)
    return found, path


def prepare_ahead(
    request: Request, inputs: Arrays, progress: Progress | None = None, *, folder: Path | None = None
) -> None:
    """Have a plan for `request` in the cache, without holding it; arguments and errors as `prepare`."""
    if not is_prepared(request, inputs, folder=folder):
        ask_preparer("prepare", request, inputs, folder or cache_dir(), progress)


def is_prepared(request: Request, inputs: Arrays, *, folder: Path | None = None) -> bool:
    """Whether a plan of this release is in the cache; `prepare` finds out whether it is whole.

    Raises:
        ModelFormatError: the model's files cannot be read.
    """
    cache = PlanCache.of(request, inputs, folder or cache_dir())
    return has_plan(cache.plan_path(request.budget_bytes, request.page_cache))


def ask_preparer(do: str, request: Request, inputs: Arrays, folder: Path, progress: Progress | None) -> None:
    """Have a child process "profile" a model, or "prepare" a plan, into the cache in `folder`.

    Profiling holds no more than the budget of the request, unless that is 0 or it needs more; asked to "profile_within"
    it is refused then.

    Raises:
        FlexnnError: as `prepare`.
    """
    from flexnn_ncnn.children import Worker, saved_arrays  # not needed for a plan that is there

    with (
        saved_arrays(inputs) as saved,
        Worker("flexnn_ncnn.preparing.preparation_worker", "profiling the model") as worker,
    ):
        worker.ask(
            do,
            progress,
            param=os.fspath(request.param_path),
            bin=os.fspath(request.bin_path),
            budget_bytes=request.budget_bytes,
            options=asdict(request.options),
            outputs=request.outputs,
            page_cache=request.page_cache,
            inputs=saved,
            folder=os.fspath(folder),
        )


@dataclass(frozen=True, slots=True)
class PlanCache:
    """Files of one model on one machine with one kind of input.

    Attributes:
        folder: where they are.
        model_id: identity of the model.
        machine: fingerprint of this machine.
        outputs: what plans are for, see `Request`; none for all that the inputs suffice for.
    """

    folder: Path
    model_id: str
    machine: str
    outputs: tuple[str, ...] = ()

    @classmethod
    def of(cls, request: Request, inputs: Arrays, folder: Path) -> PlanCache:
        """The part of the cache in `folder` that is about `request` with inputs of these shapes.

        Raises:
            ModelFormatError: the model's files cannot be read.
        """
        model_id = model_identity(request.param_path, request.bin_path)
        machine = machine_fingerprint(native.ncnn_version())
        shapes = {blob: [array.shape, array.dtype.str] for blob, array in inputs.items()}
        name = "-".join(_digest(facts) for facts in ([model_id, machine, asdict(request.options)], shapes))
        return cls(folder / "plans" / name, model_id, machine, request.outputs)

    @property
    def profile_path(self) -> Path:
        """Where the profile is kept."""
        return self.folder / f"profile{self._towards}.json"

    @property
    def _towards(self) -> str:
        return f"-{_digest(sorted(self.outputs))}" if self.outputs else ""

    def plan_path(self, budget_bytes: int, page_cache: str = "mmap") -> Path:
        """Where the plan for a budget is kept."""
        past_it = "" if page_cache == "mmap" else f"-{page_cache}"
        return self.folder / f"{budget_bytes}{self._towards}{past_it}.plan.json"

    def read_profile(self) -> ModelProfile | None:
        """The profile if it is there, whole, and of this model and machine."""
        found = _read_or_none(read_profile, self.profile_path)
        fits = found is not None and (found.model_id, found.machine) == (self.model_id, self.machine)
        return found if fits else None

    def profile_for(self, budget_bytes: int) -> ModelProfile | None:
        """The profile if it is there and tells as much as one made for this budget, 0 for any, would."""
        found = self.read_profile()
        return found if found is not None and found.serves(budget_bytes) else None

    def earlier_profile(self, budget_bytes: int) -> ModelProfile | None:
        """A profile for inputs of other shapes, if there is one that does for this budget."""
        alike = self.folder.name.partition("-")[0]
        for path in sorted(self.folder.parent.glob(f"{alike}-*/profile*.json")):
            found = _read_or_none(read_profile, path)
            is_ours = found is not None and (found.model_id, found.machine) == (self.model_id, self.machine)
            if found is not None and is_ours and found.serves(budget_bytes):
                return found
        return None

    def base(self) -> tuple[int, int] | None:
        """What earlier trials found a run to need beside what is planned, and the part of it that giving memory back
        takes out of the resident set, both in bytes; None before any trial."""
        try:
            base_bytes, code_bytes = map(int, (self.folder / "base").read_text().split())
        except (OSError, ValueError):
            return None
        return base_bytes, code_bytes

    def write_base(self, base_bytes: int, code_bytes: int) -> None:
        """Remember both for other budgets."""
        with atomic_write(self.folder / "base", "w") as file:
            file.write(f"{base_bytes} {code_bytes}")


def _digest(facts: object) -> str:
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def _read_or_none(read: Callable[[Path], Record], path: Path) -> Record | None:
    try:
        return read(path) if path.exists() else None
    except (PlanError, ProfileError, FormatVersionError):
        return None
