"""Schedules drawn: what lies where in memory at each step, and what budgets buy."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexnn_ncnn.errors import InputError, MissingPackageError
from flexnn_ncnn.reporters.escape import printable
from flexnn_ncnn.units import format_bytes
from param_tools.model_io import atomic_write

if TYPE_CHECKING:
    from flexnn_ncnn.scheduling.forecast import SweepPoint
    from flexnn_ncnn.scheduling.memory_map import MapBlob, MemoryMap
    from flexnn_ncnn.scheduling.scheduler import StockPoint

__all__ = [
    "BUDGET_COLOUR",
    "LINE_COLOUR",
    "check_plot_path",
    "new_figure",
    "plain_text",
    "plot_layout",
    "plot_sweep",
    "save_figure",
]

_FORMATS = (".png", ".svg", ".pdf")
_MB = 1e6
_DPI = 144
# a blob that lives longer than this is a shortcut over other layers, or an output
_SHORT_STEPS = 2
_COLOURS = {
    "code and objects": "#c9c9c9",
    "resident weights": "#7a9cc6",
    "blob": "#f2c14e",
    "blob that outlives the next layer": "#e07a3f",
    "copy in another layout": "#b98ac9",
    "workspace": "#dfe3a1",
    "transformed weights": "#6fb98f",
    "mapped raw weights": "#4f7f6b",
    "reserved": "#eef3f0",
}
BUDGET_COLOUR = "#b3261e"
LINE_COLOUR, _STOCK_COLOUR = "#2f5d8a", "#b3261e"
# a label needs this share of the plot's height and width
_LABEL_HEIGHT, _CHARACTER_WIDTH = 0.028, 0.0075


def check_plot_path(path: Path) -> None:
    """Finds out before any work whether a plot can be made and written.

    Raises:
        InputError: no such folder, or a suffix that matplotlib's file formats do not have here.
        MissingPackageError: matplotlib is not installed.
    """
    if path.suffix not in _FORMATS:
        raise InputError(f"{path} does not end in {', '.join(_FORMATS)}")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder", hint="make it first")
    new_figure(1, 1)


def plot_layout(found: MemoryMap, title: str, path: str | os.PathLike[str]) -> None:
    """Draws all memory of one inference, step by step.

    Resident weights and the arena with its blobs and workspace lie at the bottom; on top of them, per step, transformed
    and mapped raw weights of loads, within what they reach at most.

    Args:
        found: what to draw.
        title: what it is about.
        path: a .png, .svg or .pdf, replaced as a whole.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    figure, axes = new_figure(12.8, 7.2)
    steps = len(found.layers)
    memory = found.memory
    bottom = _band(axes, 0, memory.base_bytes, steps, "code and objects")
    bottom = _band(axes, bottom, memory.resident_bytes, steps, "resident weights")
    height = max(found.budget_bytes, memory.peak_bytes)
    _draw_blobs(axes, found, bottom, height)
    bottom += memory.arena_bytes
    bottom = _draw_steps(axes, found.heap_bytes, bottom, memory.heap_bytes, "transformed weights")
    _draw_steps(axes, found.mapped_bytes, bottom, memory.mapped_bytes, "mapped raw weights")
    axes.axhline(found.budget_bytes / _MB, color=BUDGET_COLOUR, linewidth=1.6, linestyle=(0, (6, 3)), zorder=5)
    axes.annotate(
        f"budget {format_bytes(found.budget_bytes)}",
        (steps, found.budget_bytes / _MB),
        xytext=(-4, 4),
        textcoords="offset points",
        ha="right",
        va="bottom",
        color=BUDGET_COLOUR,
        fontsize=9,
    )
    axes.set_xlim(0, max(steps, 1))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylim(0, height / _MB * 1.08)
    axes.set_xlabel(f"step: a layer, or a chain of layers ({steps})")
    axes.set_ylabel("memory beyond the idle process, MB")
    axes.set_title(f"{plain_text(title)}: {format_bytes(memory.peak_bytes)} predicted peak", loc="left", fontsize=11)
    _legend(figure, found)
    save_figure(figure, path)


def plot_sweep(
    points: Sequence[SweepPoint], stock: Sequence[StockPoint], title: str, path: str | os.PathLike[str]
) -> None:
    """Draws predicted latency, and weights resident and streamed, over budgets.

    Args:
        points: in ascending order of budgets; those that are not feasible are left out.
        stock: measured points of stock ncnn, if any.
        title: what it is about.
        path: a .png, .svg or .pdf, replaced as a whole.

    Raises:
        InputError: no point is feasible.
        MissingPackageError: matplotlib is not installed.
    """
    feasible = [point for point in points if point.feasible]
    if not feasible:
        raise InputError("no budget of the sweep can work: there is nothing to draw")
    figure, (above, below) = new_figure(9.6, 7.2, rows=(3, 2))
    budgets = [point.budget_bytes / _MB for point in feasible]
    above.plot(
        budgets,
        [point.predicted_seconds * 1e3 for point in feasible],
        color=LINE_COLOUR,
        marker="o",
        markersize=4.5,
        drawstyle="steps-post",
        label="flexnn, predicted",
    )
    for point in stock:
        x, y = point.peak_bytes / _MB, point.seconds * 1e3
        above.plot(
            [x], [y], color=_STOCK_COLOUR, marker="D", markersize=7, linestyle="none", label=plain_text(point.name)
        )
        above.annotate(
            f"{y:.3g} ms at {format_bytes(point.peak_bytes)}",
            (x, y),
            xytext=(-8, 8),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color=_STOCK_COLOUR,
        )
    first = feasible[0]
    above.annotate(
        f"{first.predicted_seconds * 1e3:.3g} ms at {format_bytes(first.budget_bytes)}",
        (budgets[0], first.predicted_seconds * 1e3),
        xytext=(2, 6),
        textcoords="offset points",
        va="bottom",
        fontsize=8,
        color=LINE_COLOUR,
    )
    above.set_ylim(0, above.get_ylim()[1] * 1.05)
    above.set_ylabel("one inference, ms")
    above.set_title(plain_text(title), loc="left", fontsize=11)
    above.legend(frameon=False, fontsize=9)
    for values, colour, label in (
        ([point.streamed_bytes for point in feasible], _COLOURS["mapped raw weights"], "streamed in each inference"),
        ([point.resident_bytes for point in feasible], _COLOURS["resident weights"], "resident, as ncnn holds them"),
    ):
        below.plot(
            budgets,
            [value / _MB for value in values],
            color=colour,
            marker="o",
            markersize=4,
            drawstyle="steps-post",
            label=label,
        )
    below.set_ylim(bottom=0)
    below.set_ylabel("weights, MB")
    below.set_xlabel("budget, MB")
    below.legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1.0, 0.98), ncols=2)
    for axes in (above, below):
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
    _logarithmic(below, [*budgets, *(point.peak_bytes / _MB for point in stock)])
    save_figure(figure, path)


def new_figure(width: float, height: float, rows: tuple[int, ...] = ()) -> tuple[Any, Any]:
    """A figure that no display needs, and its axes."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError(package="matplotlib", extra="plot", needed_for="drawing a plot") from error
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    if rows:
        axes = figure.subplots(len(rows), 1, sharex=True, height_ratios=rows)
        drawn = tuple(axes)
    else:
        axes = figure.subplots()
        drawn = (axes,)
    for one in drawn:
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _band(axes: Any, bottom: int, size: int, steps: int, what: str) -> int:
    """A band that is there in every step; returns where the next one begins."""
    from matplotlib.patches import Rectangle

    if size:
        axes.add_patch(Rectangle((0, bottom / _MB), steps, size / _MB, color=_COLOURS[what], linewidth=0))
    return bottom + size


def _draw_blobs(axes: Any, found: MemoryMap, bottom: int, height: int) -> None:
    from matplotlib.patches import Rectangle

    _band(axes, bottom, found.memory.arena_bytes, len(found.layers), "reserved")
    edge = 0.6 if len(found.layers) <= 80 else 0.25
    for blob in found.blobs:
        x, y = blob.begin, (bottom + blob.offset_bytes) / _MB
        width, tall = blob.end - blob.begin, blob.size_bytes / _MB
        axes.add_patch(
            Rectangle((x, y), width, tall, facecolor=_COLOURS[_kind(blob)], edgecolor="white", linewidth=edge, zorder=2)
        )
        label = plain_text(blob.blob)
        is_tall = blob.size_bytes > _LABEL_HEIGHT * height
        if is_tall and width > _CHARACTER_WIDTH * len(label) * len(found.layers):
            axes.text(x + width / 2, y + tall / 2, label, ha="center", va="center", fontsize=7, zorder=3)


def _kind(blob: MapBlob) -> str:
    if blob.is_scratch:
        return "workspace"
    if blob.is_copy:
        return "copy in another layout"
    return "blob" if blob.end - blob.begin <= _SHORT_STEPS else "blob that outlives the next layer"


def _draw_steps(axes: Any, sizes: Sequence[int], bottom: int, reserved: int, what: str) -> int:
    """What each step needs of something that the largest sets; returns where the next band begins."""
    _band(axes, bottom, reserved, len(sizes), "reserved")
    axes.bar(
        range(len(sizes)),
        [size / _MB for size in sizes],
        width=1.0,
        bottom=bottom / _MB,
        align="edge",
        color=_COLOURS[what],
        linewidth=0,
    )
    return bottom + reserved


def _legend(figure: Any, found: MemoryMap) -> None:
    from matplotlib.patches import Patch

    memory = found.memory
    kinds = {_kind(blob) for blob in found.blobs}
    entries: list[tuple[str, int]] = [
        ("mapped raw weights", max(found.mapped_bytes, default=0)),
        ("transformed weights", memory.heap_bytes),
        ("workspace", -1 if "workspace" in kinds else 0),
        ("blob", -1 if "blob" in kinds else 0),
        ("blob that outlives the next layer", -1 if "blob that outlives the next layer" in kinds else 0),
        ("copy in another layout", -1 if "copy in another layout" in kinds else 0),
        ("resident weights", memory.resident_bytes),
        ("code and objects", memory.base_bytes),
    ]
    handles = [
        Patch(color=_COLOURS[what], label=what + (f", {format_bytes(size)}" if size > 0 else ""))
        for what, size in entries
        if size
    ]
    handles.append(Patch(color=_COLOURS["reserved"], label="reserved, not in use in that step"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)


def _logarithmic(axes: Any, values: Sequence[float]) -> None:
    """A logarithmic axis of budgets where they span much, with plain numbers at round places."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if max(values) < 3 * min(values):
        return
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(_plain))


def _plain(value: float, _: int | None = None) -> str:
    return f"{value:g}"


def plain_text(text: str) -> str:
    """Text from a file, which matplotlib is not to read as mathematics."""
    return printable(text).replace("$", r"\$")


def save_figure(figure: Any, path: str | os.PathLike[str]) -> None:
    """Writes a figure to a .png, .svg or .pdf, replaced as a whole."""
    suffix = Path(path).suffix.removeprefix(".")
    save: Callable[..., None] = figure.savefig
    with atomic_write(path) as file:
        save(file, format=suffix or "png")
