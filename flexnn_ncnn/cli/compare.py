"""`flexnn compare`."""

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
    page_cache_option,
    quiet_option,
    resolve_model,
)
from flexnn_ncnn.cli.progress import ProgressBars
from flexnn_ncnn.cli.requests import make_request

__all__ = ["compare"]


@click.command()
@model_argument
@budget_option
@feed_options
@click.option(
    "--rounds",
    type=click.IntRange(1, 100_000),
    default=10,
    show_default=True,
    metavar="N",
    help="Inferences of each, taken in turn after one warm-up each.",
)
@bundle_threads_option
@page_cache_option
@json_option
@quiet_option
def compare(
    model: str,
    bin_path: Path | None,
    budget_bytes: int | None,
    inputs: tuple[str, ...],
    image: Path | None,
    shapes: Shapes,
    rounds: int,
    threads: int | None,
    page_cache: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compare with stock ncnn: time, memory, and the answer.

    Both run the same input, each in a process of its own. Peak memory is what the process grew by at most since it was
    idle, loading included. The exit status is 4 when the budget was exceeded, an output differs from stock's by more
    than 0.001 of its largest magnitude, or a row of scores has another winner.

    \b
    Examples:
      flexnn compare mobilenetv2 --budget 12MB
      flexnn compare my_model.param --budget 100MB --shape in0=3x640x640 --rounds 30 --json
    """
    from flexnn_ncnn.measuring.comparison import compare_models
    from flexnn_ncnn.reporters.comparisons import write_comparison
    from flexnn_ncnn.reporters.json_report import write_json

    with ProgressBars(disable=quiet) as bars:
        files = resolve_model(model, bin_path, progress=bars.update)
        feed = read_feed(model, files, inputs, image, shapes)
        request = make_request(files, feed, budget_bytes, threads, bars, quiet=quiet, page_cache=page_cache)
        found = compare_models(request, feed.arrays, rounds, bars.update, model=model)
    if as_json:
        write_json(found, sys.stdout)
    else:
        write_comparison(found, feed.source, sys.stdout)
    found.check()
