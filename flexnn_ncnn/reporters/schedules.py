"""Profiles, schedules and sweeps as text for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

from flexnn_ncnn.reporters.escape import printable
from flexnn_ncnn.reporters.tables import write_table
from flexnn_ncnn.units import format_budget, format_bytes

if TYPE_CHECKING:
    from flexnn_ncnn.records.profile import StorageProfile
    from flexnn_ncnn.scheduling.explain import Explanation
    from flexnn_ncnn.scheduling.forecast import Smallest, SweepPoint
    from flexnn_ncnn.scheduling.profile_summary import LayerSummary, ProfileSummary
    from flexnn_ncnn.scheduling.scheduler import StockPoint

__all__ = ["write_profile_summary", "write_schedule", "write_smallest", "write_sweep"]


def write_profile_summary(found: ProfileSummary, model: str, source: str, stream: TextIO, *, top: int) -> None:
    """Writes totals, and the `top` dearest layers with each way to compute them."""
    threads = f"{found.threads} thread{'s' if found.threads > 1 else ''}"
    rate = f"{format_bytes(round(found.read_bytes_per_second))}/s" if found.read_bytes_per_second else "-"
    total = found.read_seconds + found.transform_seconds + found.compute_seconds
    _write_facts(
        (
            ("model", f"{model} ({found.model_id})"),
            ("machine", f"{_machine(found)}, {threads}"),
            ("input", source),
            ("layers", f"{len(found.layers)}, {sum(bool(layer.weights_bytes) for layer in found.layers)} with weights"),
            ("weights", f"{format_bytes(found.weights_bytes)}, mapped at {rate} from the page cache"),
            ("storage", _storage(found.storage)),
            (
                "time",
                f"{_ms(total)} with ncnn's own kernels and nothing resident: {_ms(found.compute_seconds)} compute, "
                f"{_ms(found.transform_seconds)} transform, {_ms(found.read_seconds)} read",
            ),
            ("", f"half of a layer's samples lie within {found.spread:.0%} of its time"),
            ("memory", _measuring_memory(found)),
        ),
        stream,
    )
    dearest = found.dearest(top)
    if not dearest:
        return
    stream.write(f"\nDearest {len(dearest)} of {len(found.layers)} layers; ncnn's own kernel comes first:\n")
    columns = ("layer", "name", "type", "weights", "read", "kernel", "transform", "compute", "kept", "workspace")
    rows = [row for layer in dearest for row in _kernel_rows(layer)]
    write_table(columns, rows, stream, right=tuple(set(columns) - {"name", "type", "kernel"}))


def _measuring_memory(found: ProfileSummary) -> str:
    held = f"{format_bytes(found.peak_bytes)} held while measuring"
    if not found.bound_bytes:
        return held
    bound = format_bytes(found.bound_bytes)
    return f"{held}, layers cut finer to stay within {bound}: measured again for larger budgets"


def write_schedule(found: Explanation, model: str, base: str, words: Sequence[str], stream: TextIO) -> None:
    """Writes what a schedule takes, and the sentences that explain it.

    Args:
        found: the schedule explained.
        model: what the user calls it.
        base: where the bytes for code and objects are from.
        words: sentences to add, if any.
        stream: where to.
    """
    memory, time = found.memory, found.time
    streamed = len(found.streamed_layers)
    _write_facts(
        (
            ("model", model),
            ("budget", format_bytes(found.budget_bytes)),
            ("memory", f"{format_bytes(memory.peak_bytes)} predicted"),
            ("", f"{format_bytes(memory.arena_bytes)} blobs and workspace"),
            (
                "",
                f"{format_bytes(memory.resident_bytes)} resident, {format_bytes(memory.heap_bytes)} transformed, "
                f"{format_bytes(memory.mapped_bytes)} mapped weights",
            ),
            ("", f"{format_bytes(memory.base_bytes)} code and objects, {base}"),
            ("weights", f"{format_bytes(found.streamed_bytes)} streamed for {streamed} of {len(found.layers)} steps"),
            ("time", f"{_ms(time.seconds)} predicted, {_ms(found.fastest_seconds)} without a budget"),
            (
                "",
                f"{_ms(time.compute_seconds)} compute, {_ms(time.transform_seconds)} transform, "
                f"{_ms(time.read_seconds)} read, {_ms(time.cutting_seconds)} slices and slabs"
                + (f", {_ms(time.beside_seconds)} of loads beside computing" if time.beside_seconds else ""),
            ),
        ),
        stream,
    )
    if words:
        stream.write("\n")
    stream.writelines(f"{printable(sentence)}\n" for sentence in words)


def write_smallest(found: Smallest, base: str, stream: TextIO) -> None:
    """Writes the smallest budget that works, and what sets it."""
    budget = format_budget(found.budget_bytes)
    stream.write(f"{budget}  set by {printable(found.culprit)}; code and objects {base}\n")


def write_sweep(points: Sequence[SweepPoint], stock: Sequence[StockPoint], stream: TextIO) -> None:
    """Writes what each budget gives, and measured points of stock ncnn."""
    columns = ("budget", "peak", "latency", "resident", "streamed", "")
    rows = [_sweep_row(point) for point in points]
    rows += [
        ("-", format_bytes(point.peak_bytes), _ms(point.seconds), "all", format_bytes(0), point.name) for point in stock
    ]
    write_table(columns, rows, stream, right=columns[:-1])


def _sweep_row(point: SweepPoint) -> tuple[str, ...]:
    budget = format_bytes(point.budget_bytes)
    if not point.feasible:
        return (budget, "-", "-", "-", "-", "cannot work")
    return (
        budget,
        format_bytes(point.predicted_peak_bytes),
        _ms(point.predicted_seconds),
        format_bytes(point.resident_bytes),
        format_bytes(point.streamed_bytes),
        "as stock ncnn" if point.is_stock else "",
    )


def _machine(found: ProfileSummary) -> str:
    return f"{found.machine_facts.summary} ({found.machine})" if found.machine_facts else found.machine or "unknown"


def _storage(found: StorageProfile | None) -> str:
    if found is None:
        return "not measured"
    warm = f"{_rate(found.warm_bytes_per_second, found.warm_latency_seconds)} from the page cache"
    if not found.cold_bytes_per_second:
        return f"{warm}; the file system does not read past it"
    return f"{_rate(found.cold_bytes_per_second, found.cold_latency_seconds)} from the device, {warm}"


def _rate(bytes_per_second: float, latency_seconds: float) -> str:
    return f"{format_bytes(round(bytes_per_second))}/s and {latency_seconds * 1e6:.3g} us a page"


def _kernel_rows(layer: LayerSummary) -> Iterator[tuple[str, ...]]:
    what = (
        str(layer.index),
        layer.name,
        layer.type,
        format_bytes(layer.weights_bytes) if layer.weights_bytes else "-",
        _ms(layer.read_seconds),
    )
    for number, one in enumerate(layer.kernels):
        yield (
            *(what if number == 0 else [""] * len(what)),
            one.kernel,
            _ms(one.transform_seconds),
            _ms(one.compute_seconds),
            format_bytes(one.kept_bytes),
            format_bytes(one.workspace_bytes),
        )
    if not layer.kernels:
        yield (*what, "-", "-", "-", "-", "-")


def _write_facts(facts: Sequence[tuple[str, str]], stream: TextIO) -> None:
    stream.writelines(f"{label:<9}{printable(text)}\n" for label, text in facts)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds * 1e3:.0f} ms"
