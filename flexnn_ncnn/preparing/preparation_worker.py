"""A process of its own that makes a plan: `python -m flexnn_ncnn.preparing.preparation_worker`.

Profiling runs every layer in heap settings of its own, and planning builds tables: neither their memory nor a crash
on the way is the caller's.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from flexnn_ncnn.errors import ProfileError
from flexnn_ncnn.fit import check_fit
from flexnn_ncnn.planning.planner import workload
from flexnn_ncnn.preparing.preparation import PlanCache, Request, open_part
from flexnn_ncnn.preparing.profile_part import profile_towards
from flexnn_ncnn.preparing.trials import FIRST_BASE_BYTES, Trials
from flexnn_ncnn.profiling.expansions import with_expansions
from flexnn_ncnn.profiling.profiler import profile_model
from flexnn_ncnn.records.formats import write_plan, write_profile
from flexnn_ncnn.records.machine import this_machine
from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.records.profile import ModelProfile
from flexnn_ncnn.records.storage import CACHED, Storage
from flexnn_ncnn.runtime import native
from flexnn_ncnn.runtime.memory import process_memory
from flexnn_ncnn.runtime.serving import Progress, serve
from flexnn_ncnn.runtime.weights.disk_speed import read_speed
from param_tools.model_io import NcnnModel

__all__ = ["main"]


def main() -> int:
    """Answer requests until stdin ends."""
    return serve({"prepare": _prepare, "profile": _profile_only})


def _prepare(message: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Plan the model at "param" and "bin" for "inputs" within "budget_bytes", into the cache in "folder"."""
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
    whole = replace(cache, outputs=()).read_profile()
    with open_part(request, inputs, None if whole else outputs or None) as model:
        check_fit(model.model, inputs)
        profile = whole or cache.read_profile() or _profile(model, request, inputs, cache, progress)
        part = profile_towards(profile, outputs)
        storage = Storage(page_cache, read_speed(request.bin_path)) if page_cache == "direct" else CACHED
        trials = Trials(model, workload(part, native.capabilities(), storage), inputs, progress, cache.folder)
        try:
            plan = trials.plan(request.budget_bytes, cache.base_bytes(FIRST_BASE_BYTES))
        finally:
            if trials.base_bytes:
                cache.write_base(trials.base_bytes)
            if part is profile and trials.profile != profile:
                write_profile(trials.profile, cache.profile_path)
    write_plan(plan, cache.plan_path(request.budget_bytes, page_cache))
    return {}


def _profile_only(message: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Profile the model at "param" and "bin" for "inputs", into the cache in "folder", whatever is there."""
    options = RunOptions(**message["options"])
    request = Request(Path(message["param"]), Path(message["bin"]), 0, options)
    inputs = {blob: np.load(path) for blob, path in message["inputs"].items()}
    cache = PlanCache.of(request, inputs, Path(message["folder"]))
    cache.folder.mkdir(parents=True, exist_ok=True)
    with open_part(request, inputs) as model:
        check_fit(model.model, inputs)
        _profile(model, request, inputs, cache, progress)
    return {}


def _profile(
    model: NcnnModel, request: Request, inputs: Mapping[str, Any], cache: PlanCache, progress: Progress
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
        progress=progress,
        earlier=None if cache.profile_path.exists() else cache.earlier_profile(),
    )
    measured = with_expansions(measured, model, progress=progress)
    write_profile(measured, cache.profile_path)
    return measured


if __name__ == "__main__":
    sys.exit(main())
