"""`flexnn profile`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from flexnn_ncnn.cli.feed import Shapes, feed_options, read_feed
from flexnn_ncnn.cli.options import SIZE, json_option, model_argument, quiet_option, resolve_model, threads_option
from flexnn_ncnn.cli.output import check_folder, force_option, refuse_existing
from flexnn_ncnn.cli.progress import ProgressBars
from flexnn_ncnn.errors import BudgetExceededError
from flexnn_ncnn.units import format_budget

__all__ = ["profile"]


@click.command()
@model_argument
@click.option(
    "-o",
    "--output",
    "out_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="PROFILE.json",
    help="Where the profile goes; it is kept in the cache in any case.",
)
@click.option(
    "--budget",
    "budget_bytes",
    type=SIZE,
    metavar="SIZE",
    help="Bytes that measuring may hold beyond the idle process, such as 100MB; as much as it takes by default.",
)
@feed_options
@click.option("--top", type=click.IntRange(0), default=10, show_default=True, metavar="N", help="Layers to list.")
@click.option(
    "--export-flexnn",
    "export_folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write FlexNN's own .memprof and .timeprof into this folder, too.",
)
@threads_option
@force_option
@json_option
@quiet_option
def profile(
    model: str,
    bin_path: Path | None,
    out_path: Path | None,
    budget_bytes: int | None,
    inputs: tuple[str, ...],
    image: Path | None,
    shapes: Shapes,
    top: int,
    export_folder: Path | None,
    threads: int,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure a model layer by layer on this machine.

    Time and memory of loading and computing, for every kernel worth having. Later commands find the profile in the
    cache; one written with -o can be planned for with 'flexnn schedule', here or elsewhere.

    Within a budget, layers that do not fit are measured in smaller slices and by fewer rows at a time. A profile that
    was made so is made again when a larger budget is planned for. Commands that plan for a budget profile within it.

    \b
    Examples:
      flexnn profile squeezenet
      flexnn profile vgg19 --budget 100MB
      flexnn profile my_model.param --shape in0=3x640x640 -o my_model.profile.json
    """
    from flexnn_ncnn.preparing.preparation import Request
    from flexnn_ncnn.records.formats import write_profile
    from flexnn_ncnn.records.options import RunOptions
    from flexnn_ncnn.reporters.json_report import write_json
    from flexnn_ncnn.reporters.schedules import write_profile_summary
    from flexnn_ncnn.scheduling.profile_summary import summarise_profile
    from flexnn_ncnn.scheduling.scheduler import profile_model_files

    refuse_existing(out_path, overwrite)
    check_folder(export_folder)
    files = resolve_model(model, bin_path)
    feed = read_feed(model, files, inputs, image, shapes)
    request = Request(files.param_path, files.bin_path, budget_bytes or 0, RunOptions(num_threads=threads))
    with ProgressBars(disable=quiet) as bars:
        measured = profile_model_files(request, feed.arrays, bars.update, strictly=True)
    if out_path is not None:
        write_profile(measured, out_path)
    if export_folder is not None:
        from flexnn_ncnn.interop.profile_files import write_flexnn_profile
        from flexnn_ncnn.scheduling.exchange import to_flexnn_profile

        write_flexnn_profile(to_flexnn_profile(measured), export_folder / files.param_path.stem)
    found = summarise_profile(measured)
    if as_json:
        write_json({"model": model, "input": feed.source, "profile": found}, sys.stdout)
    else:
        write_profile_summary(found, model, feed.source, sys.stdout, top=top)
    if budget_bytes is not None and measured.peak_bytes > budget_bytes:
        raise BudgetExceededError(
            budget_bytes=budget_bytes,
            peak_bytes=measured.peak_bytes,
            hint=f"give {format_budget(measured.peak_bytes)} or more",
        )
