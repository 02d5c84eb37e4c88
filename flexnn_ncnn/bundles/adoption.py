"""A bundle's plan made this machine's own, if it was measured on a machine like this one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy.typing as npt

from flexnn_ncnn.bundles.manifest import Manifest
from flexnn_ncnn.bundles.opening import Bundle, Progress
from flexnn_ncnn.children import Worker, saved_arrays
from flexnn_ncnn.device import here
from flexnn_ncnn.errors import FlexnnError, PlanError, ProfileError
from flexnn_ncnn.paths import cache_dir
from flexnn_ncnn.preparing.preparation import PlanCache, Request, is_prepared
from flexnn_ncnn.records.formats import read_plan, read_profile, write_plan, write_profile
from flexnn_ncnn.records.machine import Machine
from flexnn_ncnn.records.plan import Plan
from param_tools.errors import FormatVersionError

__all__ = ["adopt_plan", "bundle_request"]

_RUNS = 2


def bundle_request(bundle: Bundle, budget_bytes: int | None = None, threads: int | None = None) -> Request:
    """What a bundle is to be run with: as its manifest says, where nothing else is asked for."""
    options = bundle.manifest.options
    if threads is not None:
        options = replace(options, num_threads=threads)
    return Request(bundle.param_path, bundle.bin_path, budget_bytes or bundle.manifest.budget_bytes, options)


def adopt_plan(
    bundle: Bundle, request: Request, inputs: Mapping[str, npt.NDArray[Any]], progress: Progress | None = None
) -> str:
    """Put a bundle's plan and profile into the cache, so that nothing has to be measured here.

    A plan is code for ncnn in all but name, so what comes from elsewhere is tried in a process of its own first.

    Args:
        bundle: the bundle.
        request: what is to be run.
        inputs: an array per input blob.
        progress: called with (what, done, of).

    Returns:
        "", or why the model has to be measured on this machine.

    Raises:
        ModelFormatError: the model's files cannot be read.
    """
    if is_prepared(request, inputs):
        return ""
    cache = PlanCache.of(request, inputs, cache_dir())
    if cache.machine != bundle.manifest.machine.fingerprint:
        return difference(bundle.manifest, here())
    try:
        plan, profile = read_plan(bundle.plan_path), read_profile(bundle.profile_path)
    except (PlanError, ProfileError, FormatVersionError) as error:
        return f"its plan cannot be used: {error.message}"
    wanted = (cache.model_id, cache.machine, request.options)
    if (plan.model_id, plan.machine, plan.options) != wanted or plan.budget_bytes != request.budget_bytes:
        return "its plan is for another budget, or other options"
    if (profile.model_id, profile.machine, profile.options) != wanted:
        return "its profile is of another model, or other options"
    problem = _try(plan, bundle, inputs, progress)
    if problem:
        return problem
    cache.folder.mkdir(parents=True, exist_ok=True)
    write_profile(profile, cache.profile_path)
    write_plan(plan, cache.plan_path(request.budget_bytes))
    return ""


def difference(manifest: Manifest, machine: Machine) -> str:
    """Why a plan that was made for another machine is not for this one, in words."""
    made_on = manifest.machine
    if manifest.made_for_fingerprint not in ("", made_on.fingerprint, machine.fingerprint):
        return f"it is meant for {manifest.made_for}, and this is {machine.summary}"
    if made_on.ncnn_version != machine.ncnn_version:
        return f"it was made with ncnn {made_on.ncnn_version}, and here is {machine.ncnn_version}"
    if made_on.summary != machine.summary:
        return f"it was made on {made_on.summary}, and this is {machine.summary}"
    return "it was made on a machine whose CPU has other features or another cache"


def _try(plan: Plan, bundle: Bundle, inputs: Mapping[str, npt.NDArray[Any]], progress: Progress | None) -> str:
    """Runs the plan; "" if it ends well and within its budget."""
    param, weights, path = map(os.fspath, (bundle.param_path, bundle.bin_path, bundle.plan_path))
    task = "trying the bundle's plan"
    try:
        with saved_arrays(inputs) as saved, Worker(task=task, threads=plan.options.num_threads) as worker:
            opened = worker.ask("open", inputs=saved, plan=path, param=param, bin=weights)
            peaks = []
            for done in range(_RUNS):
                if progress is not None:
                    progress(task, done, _RUNS)
                peaks.append(int(worker.ask("run")["peak_bytes"]))
    except FlexnnError as error:
        return f"its plan cannot be used: {error.message}"
    if progress is not None:
        progress(task, _RUNS, _RUNS)
    if opened["exact"] and max(peaks) > plan.budget_bytes:
        return "its plan exceeds the budget on this machine"
    return ""
