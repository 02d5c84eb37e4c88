"""Measured configurations as a table for people and as CSV for machines."""

from __future__ import annotations

import csv
from typing import IO, TYPE_CHECKING, TextIO

from flexnn_ncnn.reporters.escape import printable
from flexnn_ncnn.reporters.machine import write_machine_load
from flexnn_ncnn.reporters.tables import write_table
from flexnn_ncnn.units import format_bytes

if TYPE_CHECKING:
    from flexnn_ncnn.measuring.benchmark import Benchmark, Measured

__all__ = ["write_benchmark", "write_csv"]

_COLUMNS = ("config", "least", "median", "most", "spread", "loading", "peak memory", "streamed", "resident")
_CSV_COLUMNS = (
    "model",
    "budget_bytes",
    "threads",
    "loops",
    "warmup",
    "cooling_seconds",
    "machine_busy",
    "config",
    "latency_ms_min",
    "latency_ms_median",
    "latency_ms_max",
    "spread_percent",
    "load_ms",
    "peak_bytes",
    "weights_streamed_bytes",
    "weights_resident_bytes",
)


def write_benchmark(found: Benchmark, source: str, stream: TextIO) -> None:
    """Writes a row for each configuration, and what is to be known about them."""
    threads = f"{found.threads} thread{'s' if found.threads > 1 else ''}"
    loops = f"{found.loops} inference{'s' if found.loops > 1 else ''} after {found.warmup}"
    budget = f", budget {format_bytes(found.budget_bytes)}" if found.budget_bytes else ""
    cooling = f", {found.cooling_seconds:g} s before each round" if found.cooling_seconds else ""
    stream.write(f"{printable(found.model)} on {printable(source)}, {threads}, {loops}{cooling}{budget}\n\n")
    write_table(_COLUMNS, map(_row, found.measured), stream, right=_COLUMNS[1:])
    notes = [(one.config, one.note) for one in found.measured if one.note]
    if notes or found.machine.busy or not found.peak_exact:
        stream.write("\n")
    for config, note in notes:
        stream.write(f"{config} is {printable(note)}\n")
    if not found.peak_exact:
        stream.write("peaks are upper bounds: this system cannot reset a process's peak\n")
    write_machine_load(found.machine, stream)


def write_csv(found: Benchmark, stream: IO[str]) -> None:
    """Writes a heading and a row for each configuration, numbers in full."""
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    common = (found.model, found.budget_bytes, found.threads, found.loops, found.warmup, found.cooling_seconds)
    for one in found.measured:
        values = (getattr(one, name) for name in _CSV_COLUMNS[len(common) + 1 :])
        writer.writerow([*common, found.machine.busy, *values])


def _row(one: Measured) -> tuple[str, ...]:
    is_stock = one.weights_resident_bytes is None
    return (
        one.config,
        *(f"{value:.1f} ms" for value in (one.latency_ms_min, one.latency_ms_median, one.latency_ms_max)),
        f"{one.spread_percent:.0f}%",
        f"{one.load_ms:.1f} ms",
        format_bytes(one.peak_bytes),
        "-" if is_stock else format_bytes(one.weights_streamed_bytes),
        "all" if is_stock else format_bytes(one.weights_resident_bytes or 0),
    )
