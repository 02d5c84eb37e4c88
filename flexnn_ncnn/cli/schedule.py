"""`flexnn schedule`, also called `flexnn plan`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flexnn_ncnn.cli.feed import Shapes, feed_options, read_feed
from flexnn_ncnn.cli.options import SIZE, json_option, model_argument, quiet_option, resolve_model, threads_option
from flexnn_ncnn.cli.output import check_folder, force_option, refuse_existing
from flexnn_ncnn.cli.progress import ProgressBars
from flexnn_ncnn.errors import UsageError
from flexnn_ncnn.units import parse_size

if TYPE_CHECKING:
    from flexnn_ncnn.preparing.preparation import Request
    from flexnn_ncnn.scheduling.scheduler import Scheduler, StockPoint

__all__ = ["plan", "schedule"]


class _Budgets(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.5 only
    """Sizes with commas between, or "auto"."""

    name = "sizes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        return () if value == "auto" else tuple(map(parse_size, str(value).split(",")))


@click.command()
@model_argument
@click.option("--budget", "budget_bytes", type=SIZE, metavar="SIZE", help="Plan for this budget, such as 100MB.")
@click.option("--smallest", is_flag=True, help="Say the smallest budget that works, and what sets it.")
@click.option(
    "--sweep",
    "budgets",
    type=_Budgets(),
    is_flag=False,
    flag_value="auto",
    metavar="[B1,B2,...|auto]",
    help="Say what budgets would give; 'auto' takes 16 from the smallest that works to one that holds everything.",
)
@click.option("--stock", is_flag=True, help="With --sweep: measure stock ncnn, too.")
@click.option("--explain", "in_words", is_flag=True, help="Say what the plan does, and what binds it.")
@click.option(
    "-o",
    "--output",
    "out_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="PLAN.json",
    help="Where the plan goes.",
)
@click.option(
    "--plot",
    "plot_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="PICTURE",
    help="Draw memory step by step, or the sweep, into a .png, .svg or .pdf.",
)
@click.option(
    "--export-flexnn",
    "export_folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write the plan as FlexNN's own .malloc, .dependency and .layout into this folder.",
)
@feed_options
@threads_option
@force_option
@json_option
@quiet_option
def schedule(
    model: str,
    bin_path: Path | None,
    budget_bytes: int | None,
    smallest: bool,
    budgets: tuple[int, ...] | None,
    stock: bool,
    in_words: bool,
    out_path: Path | None,
    plot_path: Path | None,
    export_folder: Path | None,
    inputs: tuple[str, ...],
    image: Path | None,
    shapes: Shapes,
    threads: int,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Plan a model within a memory budget, without running it.

    MODEL may also be a profile: a .json of 'flexnn profile', which need not be of this machine, or FlexNN's own
    .memprof with its .timeprof beside it. A model is profiled first unless the cache has its profile, within the budget
    where it can be. The plan is not tried: 'flexnn run' does that, and what it learns of a run's memory is used here.

    \b
    Examples:
      flexnn schedule vgg19 --budget 100MB --explain
      flexnn schedule vgg19 --smallest
      flexnn schedule my.profile.json --sweep 20MB,50MB,100MB --plot sweep.png
    """
    if sum((budget_bytes is not None, smallest, budgets is not None)) != 1:
        raise UsageError("it must be said once what to plan for", hint="give one of --budget, --smallest, --sweep")
    if budget_bytes is None and (in_words or out_path or export_folder):
        raise UsageError("--explain, -o and --export-flexnn are about a plan", hint="give --budget")
    if plot_path and smallest:
        raise UsageError("--smallest has nothing to draw", hint="give --plot with --budget or --sweep")
    if stock and budgets is None:
        raise UsageError("--stock is a point of a sweep", hint="give --sweep")
    _check_targets((out_path, plot_path), export_folder, overwrite)
    scheduler, request, measured = _open(
        model, bin_path, budget_bytes or 0, inputs, image, shapes, threads, stock, quiet
    )
    if request is None and out_path:
        raise UsageError("a plan says where weights lie in the model's files", hint="give the model, not its profile")
    base = "found by trial" if scheduler.base_is_known else "assumed, as no plan was tried yet"
    facts = {
        "model": model,
        "base_bytes": scheduler.base_bytes,
        "base_is_known": scheduler.base_is_known,
        "is_of_this_machine": scheduler.is_of_this_machine,
    }
    if not scheduler.is_of_this_machine:
        made_on = scheduler.profile.machine_facts
        where = f": {made_on.summary}, ncnn {made_on.ncnn_version}" if made_on else " or with another ncnn"
        click.echo(f"flexnn: warning: the profile was measured on another machine{where}", err=True)
    if smallest:
        _smallest(scheduler, facts, base, as_json)
    elif budgets is not None:
        _sweep(scheduler, facts, budgets, measured, plot_path, as_json)
    elif budget_bytes is not None:
        _plan(scheduler, facts, budget_bytes, base, in_words, as_json, request, out_path, plot_path, export_folder)


plan = click.Command(
    "plan",
    callback=schedule.callback,
    params=schedule.params,
    help="The same as 'flexnn schedule'.\n\n\b\nExample:\n  flexnn plan vgg19 --budget 100MB",
)
"""`flexnn plan`."""


def _check_targets(paths: tuple[Path | None, Path | None], export_folder: Path | None, overwrite: bool) -> None:
    """Finds out before any work."""
    for path in paths:
        refuse_existing(path, overwrite)
    check_folder(export_folder)
    if paths[1] is not None:
        from flexnn_ncnn.reporters.plots import check_plot_path

        check_plot_path(paths[1])


def _open(
    model: str,
    bin_path: Path | None,
    budget_bytes: int,
    inputs: tuple[str, ...],
    image: Path | None,
    shapes: Shapes,
    threads: int,
    stock: bool,
    quiet: bool,
) -> tuple[Scheduler, Request | None, tuple[StockPoint, ...]]:
    """The scheduler, what to run where a model is given, and stock ncnn measured if asked for."""
    from flexnn_ncnn.preparing.preparation import Request
    from flexnn_ncnn.records.options import RunOptions
    from flexnn_ncnn.scheduling.scheduler import Scheduler, measure_stock

    suffix = Path(model).suffix
    if suffix in (".json", ".memprof"):
        if bin_path or inputs or image or shapes or stock:
            raise UsageError("a profile says already what the input is", hint="leave out --bin, --stock and inputs")
        if suffix == ".json":
            return Scheduler.of_profile_file(model), None, ()
        from flexnn_ncnn.interop.profile_files import read_flexnn_profile
        from flexnn_ncnn.scheduling.exchange import from_flexnn_profile

        prefix = Path(model).with_suffix("")
        return Scheduler.of_profile(from_flexnn_profile(read_flexnn_profile(prefix), prefix.name)), None, ()
    files = resolve_model(model, bin_path)
    feed = read_feed(model, files, inputs, image, shapes)
    request = Request(files.param_path, files.bin_path, budget_bytes, RunOptions(num_threads=threads))
    with ProgressBars(disable=quiet) as bars:
        scheduler = Scheduler.of_model(request, feed.arrays, bars.update)
    measured = (measure_stock(request, feed.arrays, scheduler.profile.outputs),) if stock else ()
    return scheduler, request, measured


def _smallest(scheduler: Scheduler, facts: Mapping[str, Any], base: str, as_json: bool) -> None:
    from flexnn_ncnn.reporters.json_report import write_json
    from flexnn_ncnn.reporters.schedules import write_smallest

    found = scheduler.smallest()
    if as_json:
        write_json({**facts, "smallest": found}, sys.stdout)
    else:
        write_smallest(found, base, sys.stdout)


def _sweep(
    scheduler: Scheduler,
    facts: Mapping[str, Any],
    budgets: tuple[int, ...],
    measured: tuple[StockPoint, ...],
    plot_path: Path | None,
    as_json: bool,
) -> None:
    from flexnn_ncnn.reporters.json_report import write_json
    from flexnn_ncnn.reporters.plots import plot_sweep
    from flexnn_ncnn.reporters.schedules import write_sweep

    points = scheduler.sweep(budgets)
    if plot_path is not None:
        plot_sweep(points, measured, str(facts["model"]), plot_path)
    if as_json:
        write_json({**facts, "points": points, "stock": measured}, sys.stdout)
    else:
        write_sweep(points, measured, sys.stdout)


def _plan(
    scheduler: Scheduler,
    facts: Mapping[str, Any],
    budget_bytes: int,
    base: str,
    in_words: bool,
    as_json: bool,
    request: Request | None,
    out_path: Path | None,
    plot_path: Path | None,
    export_folder: Path | None,
) -> None:
    from flexnn_ncnn.reporters.json_report import write_json
    from flexnn_ncnn.reporters.schedules import write_schedule
    from flexnn_ncnn.scheduling.explain import sentences

    decided = scheduler.schedule(budget_bytes)
    exported = None
    if export_folder is not None:  # first, as what cannot be exported is refused before anything is written
        from flexnn_ncnn.scheduling.exchange import to_flexnn_plan

        exported = to_flexnn_plan(decided)
    if out_path is not None and request is not None:
        scheduler.write_plan(decided, request, out_path)
    if plot_path is not None:
        from flexnn_ncnn.reporters.plots import plot_layout

        plot_layout(scheduler.memory_map(decided), str(facts["model"]), plot_path)
    if export_folder is not None and exported is not None:
        from flexnn_ncnn.interop.plan_files import write_flexnn_plan

        write_flexnn_plan(exported, export_folder / Path(str(facts["model"])).stem)
    found = scheduler.explain(decided)
    words = sentences(found) if in_words else ()
    if as_json:
        write_json({**facts, "schedule": found, "sentences": words}, sys.stdout)
    else:
        write_schedule(found, str(facts["model"]), base, words, sys.stdout)
