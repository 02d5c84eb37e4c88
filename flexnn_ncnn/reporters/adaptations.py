"""Budgets that changed while a model computed: as text for people, and as a picture of latency and memory over time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from flexnn_ncnn.reporters.escape import printable
from flexnn_ncnn.reporters.machine import write_machine_load
from flexnn_ncnn.reporters.plots import BUDGET_COLOUR, LINE_COLOUR, new_figure, plain_text, save_figure
from flexnn_ncnn.reporters.tables import write_table
from flexnn_ncnn.units import format_bytes

if TYPE_CHECKING:
    from flexnn_ncnn.measuring.adaptation import Adaptation, Phase, Sample

__all__ = ["plot_adaptation", "write_adaptation"]

_MB = 1e6
_PHASES = ("budget", "inferences", "median", "least", "peak memory", "resident", "streamed")
_CHANGES = (
    "change",
    "made in",
    "inferences",
    "delayed",
    "longest",
    "stopped",
    "first",
    "lost",
    "peak memory",
    "stays",
    "loaded",
)
_MEMORY_COLOUR, _STOPPED_COLOUR, _MEDIAN_COLOUR = "#7a9cc6", "#f2c14e", "#c0612b"


def write_adaptation(found: Adaptation, source: str, stream: TextIO) -> None:
    """Writes a table of the phases and one of the changes between them."""
    threads = f"{found.threads} thread{'s' if found.threads > 1 else ''}"
    stream.write(f"{printable(found.model)} on {printable(source)}, {threads}\n\n")
    write_table(_PHASES, map(_phase_row, found.phases), stream, right=_PHASES)
    changes = [_change_row(one, before) for before, one in zip(found.phases, found.phases[1:], strict=False)]
    if changes:
        stream.write("\n")
        write_table(_CHANGES, changes, stream, right=_CHANGES[1:])
    if not found.peak_exact:
        stream.write("\npeaks are upper bounds: this system cannot reset a process's peak\n")
    if found.machine.busy:
        stream.write("\n")
        write_machine_load(found.machine, stream)


def plot_adaptation(found: Adaptation, title: str, path: str | os.PathLike[str]) -> None:
    """Draws latency and memory of every inference over time, with the budgets and the stops between them.

    Args:
        found: what to draw.
        title: what it is about.
        path: a .png, .svg or .pdf, replaced as a whole.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    figure, (above, below) = new_figure(10.8, 7.2, rows=(1, 1))
    begin = 0
    for number, phase in enumerate(found.phases):
        end = begin + phase.inferences
        _draw_phase(phase, found.samples[begin:end], above, below, is_first=number == 0)
        begin = end
    below.step(
        [sample.seconds for sample in found.samples],
        [sample.budget_bytes / _MB for sample in found.samples],
        where="post",
        color=BUDGET_COLOUR,
        linewidth=1.6,
        linestyle=(0, (6, 3)),
        label="budget",
    )
    above.set_ylim(bottom=0)
    above.set_ylabel("one inference, ms")
    above.set_title(plain_text(title), loc="left", fontsize=11)
    below.set_ylim(0, max(phase.budget_bytes for phase in found.phases) / _MB * 1.15)
    below.set_ylabel("memory beyond the idle process, MB")
    below.set_xlabel("seconds")
    for axes in (above, below):
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
    entries: dict[str, Any] = {}
    for axes in (above, below):
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=7, frameon=False, fontsize=9)
    save_figure(figure, path)


def _draw_phase(phase: Phase, samples: Sequence[Sample], above: Any, below: Any, *, is_first: bool) -> None:
    """The inferences within one budget, their median and peak, and before them how long inference stopped."""

    def label(text: str) -> str | None:
        return text if is_first else None

    begins = [sample.seconds for sample in samples]
    latencies, held = [sample.latency_ms for sample in samples], [sample.held_bytes / _MB for sample in samples]
    begin, end = begins[0], begins[-1] + latencies[-1] / 1e3
    above.plot(
        begins, latencies, color=LINE_COLOUR, marker=".", markersize=5, linewidth=0.6, label=label("one inference")
    )
    above.hlines(
        phase.latency_ms_median, begin, end, color=_MEDIAN_COLOUR, linewidth=2, zorder=3, label=label("median")
    )
    _annotate(above, f"{phase.latency_ms_median:.3g} ms", begin, phase.latency_ms_median, _MEDIAN_COLOUR)
    below.fill_between(
        [*begins, end], [*held, held[-1]], step="post", color=_MEMORY_COLOUR, linewidth=0, label=label("held")
    )
    below.hlines(phase.peak_bytes / _MB, begin, end, color=LINE_COLOUR, linewidth=1.4, label=label("peak"))
    _annotate(below, format_bytes(phase.budget_bytes), begin, phase.budget_bytes / _MB, BUDGET_COLOUR)
    if phase.switch is not None:
        stopped = begin - phase.switch.stopped_ms / 1e3
        for axes in (above, below):
            axes.axvspan(stopped, begin, color=_STOPPED_COLOUR, linewidth=0, label="inference stopped")
        # from when it is asked for, the larger of both may be held
        asked = stopped - phase.switch.planning_ms / 1e3
        below.hlines(
            phase.budget_bytes / _MB, asked, begin, color=BUDGET_COLOUR, linestyle=":", linewidth=1.6, label="asked for"
        )


def _annotate(axes: Any, text: str, x: float, y: float, colour: str) -> None:
    paper = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
    axes.annotate(
        text, (x, y), xytext=(4, 6), textcoords="offset points", fontsize=9, color=colour, bbox=paper, zorder=4
    )


def _phase_row(phase: Phase) -> tuple[str, ...]:
    return (
        format_bytes(phase.budget_bytes),
        str(phase.inferences),
        f"{phase.latency_ms_median:.1f} ms",
        f"{phase.latency_ms_min:.1f} ms",
        format_bytes(phase.peak_bytes),
        format_bytes(phase.weights_resident_bytes),
        format_bytes(phase.weights_streamed_bytes),
    )


def _change_row(phase: Phase, before: Phase) -> tuple[str, ...]:
    name = f"{format_bytes(before.budget_bytes)} to {format_bytes(phase.budget_bytes)}"
    switch = phase.switch
    if switch is None:
        return (name, *("-" for _ in _CHANGES[1:]))
    return (
        name,
        f"{switch.planning_ms:.0f} ms",
        str(switch.inferences_meanwhile),
        f"{switch.delayed_ms:.0f} ms",
        f"{switch.longest_delay_ms:.1f} ms",
        f"{switch.stopped_ms:.1f} ms",
        f"{switch.first_latency_ms:.1f} ms",
        f"{switch.lost_ms:.0f} ms",
        format_bytes(switch.peak_bytes),
        format_bytes(switch.weights_kept_bytes),
        format_bytes(switch.weights_loaded_bytes),
    )
