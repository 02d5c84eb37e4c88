"""Measure a model layer by layer on this machine, holding one layer's weights at a time.

The network is walked through once to find out how every layer runs and what it holds, with every large allocation
mapped alone; then it is computed a few times more to see how long every kernel worth having takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy.typing as npt

from flexnn_ncnn.errors import ProfileError
from flexnn_ncnn.profiling.bench import Bench
from flexnn_ncnn.profiling.costs import layer_profile, read_seconds_per_byte
from flexnn_ncnn.profiling.facts import LayerFacts, ProfileLimits
from flexnn_ncnn.profiling.known import KnownLoads
from flexnn_ncnn.profiling.storage import measure_storage
from flexnn_ncnn.profiling.timing import time_layers
from flexnn_ncnn.profiling.walk import Walk
from flexnn_ncnn.records.machine import Machine
from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.records.profile import LayerProfile, ModelProfile, StorageProfile
from flexnn_ncnn.runtime import native
from flexnn_ncnn.runtime.memory import heap, process_memory
from param_tools.model_io import NcnnModel

__all__ = ["ProfileLimits", "Progress", "measured_layers", "profile_model"]

Progress = Callable[[str, int, int], None]


def profile_model(
    model: NcnnModel,
    model_id: str,
    machine: Machine | None,
    inputs: Mapping[str, npt.NDArray[Any]],
    options: RunOptions,
    limits: ProfileLimits | None = None,
    progress: Progress | None = None,
    *,
    earlier: ModelProfile | None = None,
    storage: StorageProfile | None = None,
) -> ModelProfile:
    """Profile a model.

    Args:
        model: its files.
        model_id: identity of the files.
        machine: this machine.
        inputs: an array per input blob, C-contiguous, outermost dimension first.
        options: how to compute.
        limits: what it may cost.
        progress: called with (what, done, of).
        earlier: a profile of the same files, machine and options for inputs of other shapes: what does not depend on
            them is taken from it.
        storage: as it was found before, in which case the file is not read through once more.

    Raises:
        InputError: an input is missing or has a shape that the network cannot take.
        ProfileError: a layer cannot be run on its own, or there is none.
    """
    outputs = tuple(blob for blob in model.model.output_blobs if blob not in inputs)
    if not outputs:
        raise ProfileError("no layer of the model computes an output", hint="it needs no plan: there is nothing to run")
    limits = limits or ProfileLimits()
    heap.keep_freed_memory()
    before = process_memory.resident_bytes()
    bench = Bench(model, options, limits)
    try:
        if storage is None:
            bench.source.read_through()
            heap.trim()
        layers, read_rate, is_limited = measured_layers(bench, inputs, earlier, progress)
        bench.room.note_peak()
    finally:
        bench.close()
    heap.trim()
    return ModelProfile(
        model_id=model_id,
        machine=machine.fingerprint if machine else "",
        machine_facts=machine,
        options=options,
        inputs=tuple((blob, native.layout_of(native.mat_from_array(array))) for blob, array in inputs.items()),
        outputs=outputs,
        layers=layers,
        read_seconds_per_byte=read_rate,
        storage=storage or (earlier.storage if earlier else measure_storage(model.bin_path)),
        base_bytes=max(0, process_memory.resident_bytes() - before),
        bound_bytes=(limits.bound_bytes or 0) if is_limited else 0,
        peak_bytes=bench.room.peak_bytes,
    )


def measured_layers(
    bench: Bench, inputs: Mapping[str, npt.NDArray[Any]], earlier: ModelProfile | None, progress: Progress | None
) -> tuple[tuple[LayerProfile, ...], float, bool]:
    """Every layer in execution order, Input layers left out, and the seconds of reading a byte of weights.

    And whether the bound on what may be held made layers be measured otherwise.
    """
    graph = bench.model.model
    order = [index for index in graph.topological_order() if graph.layers[index].type != "Input"]
    walk, found = Walk(bench, inputs, KnownLoads(earlier)), list[LayerFacts]()
    for done, index in enumerate(order):
        found.append(walk.layer(index))
        if progress:
            progress("profiling layers", done + 1, len(order))
    report = partial(progress, "timing layers") if progress else None
    is_limited = walk.is_limited
    del walk  # and its blobs, whose memory is given back for the passes
    timings = time_layers(bench, found, inputs, report)
    # costs of loading are counted beside it
    read_rate = earlier.read_seconds_per_byte if earlier else read_seconds_per_byte(timings.samples)
    return tuple(layer_profile(facts, timings, read_rate) for facts in found), read_rate, is_limited
