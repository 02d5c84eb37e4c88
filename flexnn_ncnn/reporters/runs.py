"""What running a model took and gave, as text for people; without tables, which would cost a run their import."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from flexnn_ncnn.reporters.escape import printable
from flexnn_ncnn.scores import OutputSummary, Score
from flexnn_ncnn.units import format_bytes

if TYPE_CHECKING:
    from flexnn_ncnn.measuring.running import RunReport

__all__ = ["write_run"]


def write_run(report: RunReport, model: str, source: str, outputs: Sequence[OutputSummary], stream: TextIO) -> None:
    """Writes the budget's use, the time, and each output's best scores."""
    held = f"{'' if report.peak_exact else 'at most '}{format_bytes(report.peak_bytes)}"
    threads = f"{report.threads} thread{'s' if report.threads > 1 else ''}"
    for label, text in (
        ("model", model),
        ("input", source),
        (
            "memory",
            f"{held} held, {format_bytes(report.predicted_peak_bytes)} predicted, "
            f"{format_bytes(report.budget_bytes)} allowed",
        ),
        (
            "weights",
            f"{format_bytes(report.weights_streamed_bytes)} streamed, "
            f"{format_bytes(report.weights_resident_bytes)} resident",
        ),
        ("time", f"{report.seconds * 1e3:.1f} ms on {threads}"),
    ):
        stream.write(f"{label:<9}{printable(text)}\n")
    for output in outputs:
        _write_output(output, stream)


def _write_output(output: OutputSummary, stream: TextIO) -> None:
    shape = "x".join(map(str, output.shape))
    values = f"{output.minimum:.4g} to {output.maximum:.4g}, mean {output.mean:.4g}"
    stream.write(f"\n{printable(output.blob)} {shape}: {values}\n")
    if output.row:
        stream.write(f"row {output.row}:\n")
    for rank, one in enumerate(output.top, 1):
        stream.write(f"{rank:>3}  {_score(one)}\n")


def _score(one: Score) -> str:
    probability = "" if one.probability is None else f"{one.probability:>7.2%}  "
    score = f"score {one.score:<9.4f}"
    return f"{probability}{score} {one.index:>5}  {printable(one.label)}".rstrip()
