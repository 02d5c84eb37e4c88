"""Results drawn: latency over memory, latency over time, and bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eval.published import PublishedModel, published_model
from flexnn_ncnn.measuring.adaptation import Adaptation, Phase, Sample, SwitchCost
from flexnn_ncnn.measuring.machine_load import MachineLoad
from flexnn_ncnn.reporters.adaptations import plot_adaptation
from flexnn_ncnn.reporters.plots import new_figure, plain_text, save_figure

__all__ = ["Point", "draw_adaptation", "draw_bars", "draw_end_to_end", "said_if_busy"]

# in the order of the legend: name for people, marker, colour
_LOOKS = {
    "shipped": ("stock ncnn as shipped", "D", "#7b3fa0"),
    "stock": ("stock ncnn, fp32", "s", "#b3261e"),
    "stock-no-winograd": ("stock ncnn, no winograd", "P", "#c79a2b"),
    "stock-direct": ("stock ncnn, no winograd or sgemm", "v", "#e07a3f"),
    "ondemand": ("layer streaming", "^", "#4f7f6b"),
    "flexnn": ("this package", "o", "#2f5d8a"),
}
# the same markers; colours are devices
_PUBLISHED_MARKERS = {"NCNN-Default": "s", "NCNN-Direct": "v", "On-Demand": "^", "FlexNN": "o"}
_DEVICE_COLOURS = ("#3b7a8a", "#8a6d3b", "#8a3b6d")


class Point(NamedTuple):
    """One contestant's result.

    Attributes:
        config: its name.
        budget_bytes: None where it has none.
        peak_bytes: memory it took.
        latency_ms: median of an inference.
        low_ms, high_ms: the fastest and the slowest.
        busy: whether the machine was busy with other things.
    """

    config: str
    budget_bytes: int | None
    peak_bytes: int
    latency_ms: float
    low_ms: float
    high_ms: float
    busy: bool


def draw_end_to_end(model: str, points: Sequence[Point], path: Path, device: str = "") -> None:
    """Latency over memory of one model: ours above, FlexNN's published points below where there are any.

    Two panels of one memory axis: the published latencies are other machines', so that only shapes can be compared.

    Args:
        model: as measured.
        points: of all contestants.
        path: a .png, .svg or .pdf, replaced as a whole.
        device: what was imitated, "" for nothing.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    published = published_model(model)
    if published:
        figure, axes = new_figure(9.6, 8.4, rows=(1, 1))
    else:
        figure, one = new_figure(9.6, 5.4)
        axes = (one,)
    ours = axes[0]
    for config, (label, marker, colour) in _LOOKS.items():
        found = sorted(point for point in points if point.config == config)
        if found:
            _draw_measured(ours, found, label, marker, colour)
    busy = said_if_busy(any(point.busy for point in points))
    title = f"{plain_text(Path(model).stem)}, measured here{device and f' as on a {device}'}{busy}"
    ours.set_title(title, loc="left", fontsize=11 if len(title) < 80 else 9)
    memories = [point.peak_bytes / 1e6 for point in points]
    if published:
        memories += _draw_published(axes[1], published)
        if published.differs:
            figure.supxlabel(plain_text(published.differs), fontsize=8, color="#555555")
    for one in axes:
        one.set_ylabel("one inference, ms")
        one.grid(color="#e6e6e6", linewidth=0.8)
        one.set_axisbelow(True)
    ours.set_ylim(bottom=0)
    ours.legend(frameon=False, fontsize=8)
    axes[-1].set_xlabel("memory, MB")
    _logarithmic_memory(axes[-1], memories)
    save_figure(figure, path)


def draw_bars(
    title: str,
    names: Sequence[str],
    columns: Sequence[tuple[str, Sequence[float | None], str]],
    path: Path,
) -> None:
    """Figures of contestants as bars, a row each.

    Args:
        title: what they ran.
        names: the rows, the first on top.
        columns: label, a value for each row, None where there is none, and colour.
        path: a .png, .svg or .pdf, replaced as a whole.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    figure, _ = new_figure(9.6, 1.3 + 0.32 * len(names))
    figure.clear()
    rows = range(len(names))
    for one, (label, values, colour) in zip(figure.subplots(1, len(columns), sharey=True), columns, strict=True):
        bars = one.barh(rows, [value or 0.0 for value in values], color=colour, height=0.65)
        one.bar_label(bars, ["-" if value is None else f"{value:.4g}" for value in values], padding=3, fontsize=8)
        one.set_xlim(0, 1.2 * max((value or 0.0 for value in values), default=0.0) or 1.0)
        one.set_xticks([])
        one.set_title(label, loc="left", fontsize=9)
        for side in ("top", "right", "bottom"):
            one.spines[side].set_visible(False)
    first = figure.axes[0]
    first.set_yticks(list(rows), [plain_text(name) for name in names], fontsize=9)
    first.invert_yaxis()
    figure.suptitle(plain_text(title), fontsize=11, x=0.01, ha="left")
    save_figure(figure, path)


def draw_adaptation(found: Mapping[str, Any], title: str, path: Path) -> None:
    """Latency and memory over time of a model whose budget changes.

    Args:
        found: what `flexnn adapt --json` said.
        title: what it is about.
        path: a .png, .svg or .pdf, replaced as a whole.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    phases = tuple(
        Phase(**{**phase, "switch": phase["switch"] and SwitchCost(**phase["switch"])}) for phase in found["phases"]
    )
    samples = tuple(Sample(**sample) for sample in found["samples"])
    machine = MachineLoad(**found["machine"])
    plot_adaptation(Adaptation(**{**found, "phases": phases, "samples": samples, "machine": machine}), title, path)


def said_if_busy(busy: bool) -> str:
    """The end of a title of what was measured while the machine was busy; nothing else."""
    return "; the machine was busy with other things" if busy else ""


def _draw_measured(axes: Any, found: Sequence[Point], label: str, marker: str, colour: str) -> None:
    """The points of one contestant, with the fastest and slowest run as bars; budgets are joined by a line."""
    latency = [point.latency_ms for point in found]
    spread = [
        [point.latency_ms - point.low_ms for point in found],
        [point.high_ms - point.latency_ms for point in found],
    ]
    axes.errorbar(
        [point.peak_bytes / 1e6 for point in found],
        latency,
        yerr=spread,
        label=label,
        marker=marker,
        color=colour,
        linestyle="-" if found[0].budget_bytes else "none",
        elinewidth=0.8,
        capsize=2,
    )


def _draw_published(axes: Any, published: PublishedModel) -> list[float]:
    """FlexNN's published points, empty markers with a colour for each device; returns their megabytes."""
    from matplotlib.lines import Line2D

    memories: list[float] = []
    for (device, contestants), colour in zip(published.devices.items(), _DEVICE_COLOURS, strict=True):
        for name, marker in _PUBLISHED_MARKERS.items():
            memory, latency = zip(*contestants[name], strict=True)
            style = "--" if name == "FlexNN" else "none"
            axes.plot(memory, latency, marker=marker, color=colour, linestyle=style, linewidth=1, fillstyle="none")
            memories += memory
        axes.annotate(
            device, contestants["FlexNN"][0], xytext=(0, 7), textcoords="offset points", fontsize=8, color=colour
        )
    handles = [
        Line2D([], [], marker=marker, color="#555555", linestyle="none", fillstyle="none", label=name)
        for name, marker in _PUBLISHED_MARKERS.items()
    ]
    axes.legend(handles=handles, frameon=False, fontsize=8, ncols=4, loc="lower left")
    axes.set_title(f"published by FlexNN for {published.title}, on other machines", loc="left", fontsize=11)
    axes.set_yscale("log")
    _plain_numbers(axes.yaxis)
    low, high = axes.get_ylim()
    axes.set_ylim(low / 1.5, high * 1.2)
    return memories


def _logarithmic_memory(axes: Any, values: Sequence[float]) -> None:
    if max(values) > 3 * min(values):
        axes.set_xscale("log")
        _plain_numbers(axes.xaxis)


def _plain_numbers(axis: Any) -> None:
    """Round places with plain numbers on a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 3.0, 5.0)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
