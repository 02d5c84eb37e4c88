"""A comparison with stock ncnn as text for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from flexnn_ncnn.reporters.escape import printable
from flexnn_ncnn.reporters.machine import write_machine_load
from flexnn_ncnn.reporters.tables import write_table
from flexnn_ncnn.units import format_bytes

if TYPE_CHECKING:
    from flexnn_ncnn.measuring.comparison import Comparison

__all__ = ["write_comparison"]


def write_comparison(found: Comparison, source: str, stream: TextIO) -> None:
    """Writes a table of both sides and what they differ in."""
    threads = f"{found.threads} thread{'s' if found.threads > 1 else ''}"
    rounds = f"{found.rounds} round{'s' if found.rounds > 1 else ''} after a warm-up"
    stream.write(f"{printable(found.model)} on {printable(source)}, {threads}, {rounds}\n\n")
    stock, flexnn = found.stock, found.flexnn
    write_table(
        ("", "stock ncnn", "flexnn", "flexnn / stock"),
        [
            _milliseconds("latency, median", stock.latency_ms_median, flexnn.latency_ms_median),
            _milliseconds("latency, least", stock.latency_ms_min, flexnn.latency_ms_min),
            _milliseconds("loading", stock.load_ms, flexnn.load_ms),
            (
                "peak memory",
                format_bytes(stock.peak_bytes),
                format_bytes(flexnn.peak_bytes),
                f"{flexnn.peak_bytes / max(1, stock.peak_bytes):.2f}",
            ),
            ("weights streamed", "-", format_bytes(flexnn.weights_streamed_bytes), ""),
            ("weights resident", "-", format_bytes(flexnn.weights_resident_bytes), ""),
        ],
        stream,
        right=("stock ncnn", "flexnn", "flexnn / stock"),
    )
    kept = "kept" if found.within_budget else "EXCEEDED"
    if not found.peak_exact:
        kept = "not judged: this system does not tell peaks exactly, they are upper bounds"
    same = "same" if found.top1_equal else "DIFFERENT"
    stream.write(f"\nbudget   {format_bytes(found.budget_bytes)}, {kept}\n")
    difference = f"{found.max_abs_diff:.3g}, {found.max_rel_diff:.3g} of the largest magnitude"
    stream.write(f"outputs  differ by at most {difference}; top-1 {same}\n")
    write_machine_load(found.machine, stream)


def _milliseconds(name: str, stock: float, flexnn: float) -> tuple[str, ...]:
    return (name, f"{stock:.1f} ms", f"{flexnn:.1f} ms", f"{flexnn / stock:.2f}" if stock else "-")
