"""`flexnn adapt`."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from flexnn_ncnn.cli.feed import Shapes, feed_options, read_feed
from flexnn_ncnn.cli.options import SIZE, json_option, model_argument, quiet_option, resolve_model, threads_option
from flexnn_ncnn.cli.output import force_option, refuse_existing
from flexnn_ncnn.cli.progress import ProgressBars

if TYPE_CHECKING:
    from flexnn_ncnn.measuring.adaptation import Sample

__all__ = ["adapt"]


def _budgets(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    return tuple(SIZE.convert(one, parameter, context) for one in value.split(","))


@click.command()
@model_argument
@click.option(
    "--budgets",
    callback=_budgets,
    required=True,
    metavar="SIZE,SIZE,...",
    help="Budgets in their order, such as 100MB,300MB,200MB,500MB.",
)
@feed_options
@click.option(
    "--runs-each",
    type=click.IntRange(1, 100_000),
    default=32,
    show_default=True,
    metavar="N",
    help="Inferences within each budget.",
)
@click.option(
    "--seconds-each",
    type=click.FloatRange(0, 86_400),
    default=0.0,
    metavar="SECONDS",
    help="Go on within each budget for so long at least.",
)
@threads_option
@click.option(
    "--plot",
    "plot_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="OUT.png",
    help="Where a picture of latency and memory over time goes: .png, .svg or .pdf.",
)
@force_option
@json_option
@quiet_option
def adapt(
    model: str,
    bin_path: Path | None,
    budgets: tuple[int, ...],
    inputs: tuple[str, ...],
    image: Path | None,
    shapes: Shapes,
    runs_each: int,
    seconds_each: float,
    threads: int,
    plot_path: Path | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Change the budget while a model computes, and show what that costs.

    The model runs in a process of its own, again and again. The plan for the next budget is made while inference goes
    on, and takes the old one's place between two inferences; weights that both keep stay loaded. The exit status is 4
    when a budget was exceeded, or the larger one while it changed.

    \b
    Examples:
      flexnn adapt vgg19 --budgets 100MB,300MB,200MB,500MB --plot vgg19.png
      flexnn adapt my_model.param --budgets 20MB,10MB --seconds-each 5 --json
    """
    from flexnn_ncnn.measuring.adaptation import adapt_model
    from flexnn_ncnn.preparing.preparation import Request
    from flexnn_ncnn.records.options import RunOptions
    from flexnn_ncnn.reporters.adaptations import plot_adaptation, write_adaptation
    from flexnn_ncnn.reporters.json_report import write_json
    from flexnn_ncnn.reporters.plots import check_plot_path

    refuse_existing(plot_path, overwrite)
    if plot_path is not None:
        check_plot_path(plot_path)
    with ProgressBars(disable=quiet) as bars:
        files = resolve_model(model, bin_path, progress=bars.update)
        feed = read_feed(model, files, inputs, image, shapes)
        request = Request(files.param_path, files.bin_path, budgets[0], RunOptions(num_threads=threads))
        with _LiveView(budgets, runs_each, disable=quiet) as view:
            found = adapt_model(
                request,
                feed.arrays,
                budgets,
                runs=runs_each,
                seconds=seconds_each,
                progress=bars.update,
                watch=view.show,
                model=model,
            )
    if plot_path is not None:
        plot_adaptation(found, f"{model} under {len(budgets)} budgets", plot_path)
    if as_json:
        write_json(found, sys.stdout)
    else:
        write_adaptation(found, feed.source, sys.stdout)
    found.check()


class _LiveView:
    """A bar on stderr for each budget, with the last inference; none where stderr is no terminal."""

    def __init__(self, budgets: tuple[int, ...], runs: int, *, disable: bool) -> None:
        self._budgets, self._runs = budgets, runs
        self._disable = True if disable else None  # tqdm takes None for "unless it is a terminal"
        self._number = -1
        self._bar: Any = None

    def show(self, sample: Sample, number: int) -> None:
        """Shows one more inference of the phase `number`."""
        from tqdm import tqdm

        from flexnn_ncnn.units import format_bytes

        if number != self._number:
            self._close()
            self._number = number
            name = f"budget {format_bytes(self._budgets[number])}"
            self._bar = tqdm(desc=name, total=self._runs, unit="inference", disable=self._disable)
        self._bar.set_postfix_str(f"{sample.latency_ms:.0f} ms, {format_bytes(sample.held_bytes)} held", refresh=False)
        self._bar.update()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> _LiveView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
