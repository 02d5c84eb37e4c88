"""A cell of contestants: entries made, run in passes so that all meet the same minutes, and put together."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from eval.cells import Cell
from eval.contest import Entry, LimitError, Run, run_once
from eval.devices import check_device
from eval.limits import smallest_limit
from eval.models import ModelFiles, model_files
from eval.peers.setups import PEERS, peer_entry
from flexnn_ncnn.children import saved_arrays
from flexnn_ncnn.errors import UsageError
from flexnn_ncnn.measuring.contestants import CONFIGS, Contestants
from flexnn_ncnn.measuring.machine_load import LoadMeter
from flexnn_ncnn.preparing.preparation import Request
from flexnn_ncnn.records.options import RunOptions
from param_tools.errors import FlexnnError
from param_tools.model_io import read_param

__all__ = ["SHIPPED", "measure_contest"]

SHIPPED = "shipped"
"""Stock ncnn with the options it is shipped with, half precision where it has it; the others compute in fp32."""

# a process that has ended is still counted for a moment
_SETTLE_SECONDS = 0.05

Arrays = Mapping[str, npt.NDArray[Any]]


def measure_contest(cell: Cell) -> dict[str, Any]:
    """What the contestants of a cell took.

    Returns:
        "measured": a mapping for each that ran; "failed": per contestant that did not why; "missing": per one that
        is not installed, or that cannot take the model, why; "machine": how busy it was meanwhile; "root": why there
        are no control groups, or "".

    Raises:
        BudgetError: no plan keeps the budget.
        FlexnnError: the model cannot be read, or one that is no peer cannot run it for another reason than a limit.
    """
    check_device(cell.device)
    files = model_files(cell.model)
    meter = LoadMeter()
    runs: dict[str, list[Run]] = {config: [] for config in cell.configs}
    failed: dict[str, str] = {}
    with TemporaryDirectory(prefix="flexnn-eval-") as folder, saved_arrays(files.inputs) as inputs:
        entries = _entries(cell, files, Path(folder))
        ready = [entry for entry in entries if not entry.missing]
        wanted = read_param(files.param_path).output_blobs
        save_to = {blob: str(Path(folder) / f"out{number}.npy") for number, blob in enumerate(wanted)}
        for number in range(cell.passes):
            for entry in ready:
                if entry.config in failed:
                    continue
                time.sleep(_SETTLE_SECONDS)
                meter.look()
                try:
                    run = run_once(
                        entry,
                        inputs,
                        device=cell.device,
                        threads=cell.threads,
                        loops=cell.loops,
                        warmups=cell.warmups,
                        patience_seconds=cell.patience_seconds,
                        save_to=save_to if number == 0 else None,
                    )
                    runs[entry.config].append(run)
                except FlexnnError as error:
                    if entry.config not in PEERS and not isinstance(error, LimitError):
                        raise  # nothing that is found out: to be measured again
                    failed[entry.config] = error.message
        measured = [_summary(entry, runs[entry.config]) for entry in ready if entry.config not in failed]
        _compare_outputs(measured, runs)
        if cell.limit_percent:
            _find_limits(cell, measured, {entry.config: entry for entry in ready}, inputs)
    return {
        "measured": measured,
        "failed": failed,
        "missing": {entry.config: entry.missing for entry in entries if entry.missing},
        "machine": asdict(meter.load(cell.threads)),
        "root": check_device("host"),
    }


def _entries(cell: Cell, files: ModelFiles, folder: Path) -> list[Entry]:
    options = RunOptions(num_threads=cell.threads)
    request = Request(files.param_path, files.bin_path, cell.budget_bytes or 1, options)
    contestants = Contestants(request, files.inputs, folder, None)
    on_disk = (files.param_path, files.bin_path)
    found = []
    for config in cell.configs:
        if config == SHIPPED:
            half = {**contestants.of("stock").opens, "options": asdict(RunOptions(cell.threads, fp16=True))}
            found.append(Entry(config, half, on_disk))
        elif config in PEERS:
            found.append(peer_entry(config, cell.model, files, cell.threads))
        elif config in CONFIGS:
            opens = contestants.of(config).opens
            found.append(Entry(config, opens, on_disk, note=contestants.notes.get(config, "")))
        else:
            raise UsageError(f"there is no contestant {config!r}")
    return found


def _summary(entry: Entry, runs: Sequence[Run]) -> dict[str, Any]:
    warm = [seconds * 1e3 for run in runs for seconds in run.warm_seconds]
    cold = [run.cold_seconds * 1e3 for run in runs]
    peaks = [run.group_peak_bytes for run in runs if run.group_peak_bytes is not None]
    last = runs[-1]
    return {
        "config": entry.config,
        "note": entry.note,
        "latency_ms_min": min(warm),
        "latency_ms_median": median(warm),
        "latency_ms_max": max(warm),
        "latencies_ms": warm,
        "cold_ms": median(cold),
        "load_ms": median(run.load_seconds * 1e3 for run in runs),
        "peak_bytes": max(run.peak_bytes for run in runs),
        "peak_exact": last.exact,
        "group_peak_bytes": max(peaks) if peaks else None,
        "cold_read_bytes": last.cold_read_bytes,
        "warm_read_bytes": last.warm_read_bytes,
        "weights_streamed_bytes": last.streamed_bytes,
        "weights_resident_bytes": last.resident_bytes,
    }


def _compare_outputs(measured: Sequence[dict[str, Any]], runs: Mapping[str, Sequence[Run]]) -> None:
    """Notes by how much outputs differ from those of stock ncnn in fp32, where that is among the contestants."""
    reference = runs.get("stock")
    if not reference:
        return
    for one in measured:
        one["difference"] = max(
            _difference(found, reference[0].outputs[blob]) for blob, found in runs[one["config"]][0].outputs.items()
        )


def _difference(found: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> float:
    """Largest of the differences, by the largest magnitude."""
    if found.size != wanted.size:
        return float("inf")
    largest = max(float(np.abs(wanted).max(initial=0.0)), 1e-30)
    return float(np.abs(found.ravel().astype(np.float64) - wanted.ravel()).max(initial=0.0)) / largest


def _find_limits(
    cell: Cell, measured: Sequence[dict[str, Any]], entries: Mapping[str, Entry], inputs: Mapping[str, str]
) -> None:
    """Adds to each contestant the smallest memory it survived within, where limits can be set."""
    for one in measured:
        if one["group_peak_bytes"] is None:
            one["limit"] = None
            continue

        def attempt(limit_bytes: int, entry: Entry = entries[one["config"]]) -> Run | None:
            try:
                return run_once(
                    entry,
                    inputs,
                    device=cell.device,
                    threads=cell.threads,
                    loops=0 if cell.is_coarse else 1,
                    memory_bytes=limit_bytes,
                    patience_seconds=cell.limit_patience_seconds,
                )
            except FlexnnError:
                return None

        one["limit"] = smallest_limit(attempt, one["group_peak_bytes"], cell.limit_percent)
