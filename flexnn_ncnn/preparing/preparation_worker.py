"""A process of its own that makes a plan: `python -m flexnn_ncnn.preparing.preparation_worker`.

Profiling runs every layer in heap settings of its own, and planning builds tables: neither their memory nor a crash
on the way is the caller's.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from flexnn_ncnn.errors import BudgetError, ProfileError
from flexnn_ncnn.fit import check_fit
from flexnn_ncnn.planning.planner import with_code_returned, workload
from flexnn_ncnn.preparing.preparation import PlanCache, Request, open_part
from flexnn_ncnn.preparing.profile_part import profile_towards
from flexnn_ncnn.preparing.trials import FIRST_BASE_BYTES, Trials
from flexnn_ncnn.profiling.expansions import with_expansions
from flexnn_ncnn.profiling.floor import least_bound
from flexnn_ncnn.profiling.profiler import ProfileLimits, profile_model
from flexnn_ncnn.records.formats import write_plan, write_profile
from flexnn_ncnn.records.machine import this_machine
from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.records.profile import ModelProfile, StorageProfile
from flexnn_ncnn.records.storage import CACHED, Storage
from flexnn_ncnn.runtime import native
from flexnn_ncnn.runtime.memory import process_memory
from flexnn_ncnn.runtime.serving import Progress, serve
from flexnn_ncnn.runtime.weights.disk_speed import read_speed
from flexnn_ncnn.units import format_bytes
from param_tools.model_io import NcnnModel

__all__ = ["main"]


def main() -> int:
    """Answer requests until stdin ends."""
    return serve(
        {"prepare": _prepare, "profile": _profile_only, "profile_within": partial(_profile_only, strictly=True)}
    )


def _prepare(message: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Plan the model at "param" and "bin" for "inputs" within "budget_bytes", into the cache in "folder"."""
    idle_bytes = process_memory.resident_bytes()
    options = RunOptions(**message["options"])
    outputs = tuple(message.get("outputs", ()))
    page_cache = message.get("page_cache", "mmap")
    request = Request(
        Path(message["param"]),
        Path(message["bin"]),
        message["budget_bytes"],
        options,
        outputs=outputs,
        page_cache=page_cache,
    )
    inputs = {blob: np.load(path) for blob, path in message["inputs"].items()}
    cache = PlanCache.of(request, inputs, Path(message["folder"]))
    cache.folder.mkdir(parents=True, exist_ok=True)
    # a profile of everything does for any outputs; where there is none, what `outputs` need is enough, and may be all
    # that takes inputs of these shapes
    whole = replace(cache, outputs=()).profile_for(request.budget_bytes)
    with open_part(request, inputs, None if whole else outputs or None) as model:
        check_fit(model.model, inputs)
        profile = whole or cache.profile_for(request.budget_bytes)
        if profile is None:
            limits = _limits(model, request, inputs, idle_bytes)
            known = cache.read_profile()
            told = _telling(progress, request, limits)
            storage_known = known.storage if known else None
            try:
                profile = _profile(model, request, inputs, cache, told, limits, storage_known)
            except native.NcnnError:
                if limits.bound_bytes is None:
                    raise
                # a layer that ncnn does not compute in parts as small as that
                limits = ProfileLimits(idle_bytes=idle_bytes)
                profile = _profile(model, request, inputs, cache, progress, limits, storage_known)
        part = profile_towards(profile, outputs)
        storage = Storage(page_cache, read_speed(request.bin_path)) if page_cache == "direct" else CACHED
        base_bytes, code_bytes = cache.base() or (FIRST_BASE_BYTES, 0)
        work = with_code_returned(workload(part, native.capabilities(), storage), code_bytes)
        trials = Trials(model, work, inputs, progress, cache.folder)
        try:
            plan = trials.plan(request.budget_bytes, base_bytes)
        finally:
            if trials.base_bytes:
                cache.write_base(trials.base_bytes, trials.code_bytes)
            if part is profile and trials.profile != profile:
                write_profile(trials.profile, cache.profile_path)
    write_plan(plan, cache.plan_path(request.budget_bytes, page_cache))
    return {}


def _profile_only(message: Mapping[str, Any], progress: Progress, *, strictly: bool = False) -> dict[str, Any]:
    """Profile the model at "param" and "bin" for "inputs", into the cache in "folder", whatever is there."""
    idle_bytes = process_memory.resident_bytes()
    options = RunOptions(**message["options"])
    request = Request(Path(message["param"]), Path(message["bin"]), message["budget_bytes"], options)
    inputs = {blob: np.load(path) for blob, path in message["inputs"].items()}
    cache = PlanCache.of(request, inputs, Path(message["folder"]))
    cache.folder.mkdir(parents=True, exist_ok=True)
    with open_part(request, inputs) as model:
        check_fit(model.model, inputs)
        limits = _limits(model, request, inputs, idle_bytes, strictly=strictly)
        _profile(model, request, inputs, cache, _telling(progress, request, limits), limits)
    return {}


def _limits(
    model: NcnnModel, request: Request, inputs: Mapping[str, Any], idle_bytes: int, *, strictly: bool = False
) -> ProfileLimits:
    """What profiling may hold: the budget of the request, 0 being none, or as little as it needs where that is more.

    Args:
        model: the files.
        request: what is profiled for.
        inputs: an array per input blob.
        idle_bytes: resident set of the idle process.
        strictly: refuse a budget that is less than is needed.

    Raises:
        BudgetError: it is.
    """
    if not request.budget_bytes or not (strictly or process_memory.peak_is_exact()):  # nobody could tell if it is kept
        return ProfileLimits(idle_bytes=idle_bytes)
    least_bytes, culprit = least_bound(model, inputs, request.options)
    if strictly and request.budget_bytes < least_bytes:
        raise BudgetError(budget_bytes=request.budget_bytes, smallest_bytes=least_bytes, culprit=culprit)
    return ProfileLimits(bound_bytes=max(request.budget_bytes, least_bytes), idle_bytes=idle_bytes)


def _telling(progress: Progress, request: Request, limits: ProfileLimits) -> Progress:
    """The same, saying so where measuring needs more than the budget."""
    bound_bytes = limits.bound_bytes or 0
    if bound_bytes <= request.budget_bytes or not bound_bytes:
        return progress
    return lambda what, done, of: progress(f"{what}, which needs {format_bytes(bound_bytes)}", done, of)


def _profile(
    model: NcnnModel,
    request: Request,
    inputs: Mapping[str, Any],
    cache: PlanCache,
    progress: Progress,
    limits: ProfileLimits,
    storage: StorageProfile | None = None,
) -> ModelProfile:
    if not process_memory.peak_can_restart():
        raise ProfileError(
            "this system does not tell how much memory a process holds, so no budget can be planned for",
            hint="use Linux or Android, with /proc",
        )
    machine = this_machine(native.ncnn_version())
    measured = profile_model(
        model,
        cache.model_id,
        machine,
        inputs,
        request.options,
        limits,
        progress,
        earlier=None if cache.profile_path.exists() else cache.earlier_profile(request.budget_bytes),
        storage=storage,
    )
    measured = with_expansions(measured, model, limits, progress)
    write_profile(measured, cache.profile_path)
    return measured


if __name__ == "__main__":
    sys.exit(main())
