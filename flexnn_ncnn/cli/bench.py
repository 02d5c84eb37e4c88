"""`flexnn bench`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from flexnn_ncnn.cli.feed import Shapes, feed_options, read_feed
from flexnn_ncnn.cli.options import (
    budget_option,
    bundle_threads_option,
    json_option,
    model_argument,
    quiet_option,
    resolve_model,
)
from flexnn_ncnn.cli.output import force_option, refuse_existing
from flexnn_ncnn.cli.progress import ProgressBars
from flexnn_ncnn.cli.requests import make_request

__all__ = ["bench"]

# as `flexnn_ncnn.measuring.contestants.CONFIGS`, which is not to be imported for a list of commands
_ABLATED = ("no-preload", "no-memplan", "neither", "no-kernel-choice", "no-slicing")
_CONFIGS = ("stock", "stock-no-winograd", "stock-direct", "ondemand", "flexnn", *(f"flexnn-{one}" for one in _ABLATED))


@click.command()
@model_argument
@click.option(
    "--config",
    "configs",
    type=click.Choice(_CONFIGS),
    multiple=True,
    help="What to measure; several times for several.  [default: stock, and flexnn where there is a budget]",
)
@budget_option
@feed_options
@click.option(
    "--loops",
    type=click.IntRange(1, 100_000),
    default=10,
    show_default=True,
    metavar="N",
    help="Inferences that count.",
)
@click.option(
    "--warmup",
    type=click.IntRange(0, 100_000),
    default=2,
    show_default=True,
    metavar="N",
    help="Inferences before those.",
)
@bundle_threads_option
@click.option(
    "--cooling",
    "cooling_seconds",
    type=click.FloatRange(0, 3600),
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="Pause before each round, for devices that slow down when they are hot.",
)
@click.option(
    "--one-by-one",
    is_flag=True,
    help="Have one configuration in memory at a time, for devices that cannot hold them all.",
)
@click.option(
    "--csv",
    "csv_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="OUT.csv",
    help="Where a table for machines goes.",
)
@force_option
@json_option
@quiet_option
def bench(
    model: str,
    bin_path: Path | None,
    configs: tuple[str, ...],
    budget_bytes: int | None,
    inputs: tuple[str, ...],
    image: Path | None,
    shapes: Shapes,
    loops: int,
    warmup: int,
    threads: int | None,
    cooling_seconds: float,
    one_by_one: bool,
    csv_path: Path | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Time ways to run a model against each other.

    Each configuration runs the same input in a process of its own, in turn, so that whatever the machine does meanwhile
    meets them all alike. Peak memory is what the process grew by at most since it was idle, loading included.

    \b
      stock                    stock ncnn
      stock-no-winograd        stock ncnn without winograd: less memory where it has 3x3 convolutions, slower
      stock-direct             stock ncnn without winograd and sgemm: slower still
      ondemand                 layer streaming without a plan: each layer loaded whole, computed and released
      flexnn                   this package within --budget
      flexnn-no-preload        the same, nothing read or loaded before it is needed
      flexnn-no-memplan        the same, memory taken as it comes instead of by plan; keeps no budget
      flexnn-neither           the same without either of these
      flexnn-no-kernel-choice  planned within --budget with ncnn's own kernels alone
      flexnn-no-slicing        planned within --budget with every layer loaded and computed whole

    \b
    Examples:
      flexnn bench mobilenetv2 --config stock --config ondemand --config flexnn --budget 12MB
      flexnn bench my_model.param --budget 100MB --loops 30 --cooling 1 --csv times.csv
    """
    from flexnn_ncnn.measuring.benchmark import benchmark
    from flexnn_ncnn.reporters.benchmarks import write_benchmark, write_csv
    from flexnn_ncnn.reporters.json_report import write_json
    from param_tools.model_io import atomic_write

    refuse_existing(csv_path, overwrite)
    with ProgressBars(disable=quiet) as bars:
        files = resolve_model(model, bin_path, progress=bars.update)
        feed = read_feed(model, files, inputs, image, shapes)
        has_budget = budget_bytes is not None or files.bundle is not None
        chosen = tuple(dict.fromkeys(configs)) or (("stock", "flexnn") if has_budget else ("stock",))
        # a configuration without a budget is measured with none
        given = budget_bytes if has_budget or any(name.startswith("flexnn") for name in chosen) else 1
        request = make_request(files, feed, given, threads, bars, quiet=quiet)
        found = benchmark(
            request,
            feed.arrays,
            chosen,
            loops=loops,
            warmup=warmup,
            cooling_seconds=cooling_seconds,
            together=not one_by_one,
            progress=bars.update,
            model=model,
        )
    if csv_path is not None:
        with atomic_write(csv_path, "w") as file:
            write_csv(found, file)
    if as_json:
        write_json(found, sys.stdout)
    else:
        write_benchmark(found, feed.source, sys.stdout)
