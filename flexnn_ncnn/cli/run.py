"""`flexnn run`."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from flexnn_ncnn.errors import BudgetExceededError, InputError, UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["run"]


@click.command()
@model_argument
@budget_option
@feed_options
@click.option("--top", type=click.IntRange(0), default=5, show_default=True, metavar="N", help="Best scores to show.")
@click.option(
    "-o",
    "--output",
    "out_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="OUT.npy",
    help="Where the output goes; OUT.npz where there are several.",
)
@bundle_threads_option
@page_cache_option
@json_option
@quiet_option
def run(
    model: str,
    bin_path: Path | None,
    budget_bytes: int | None,
    inputs: tuple[str, ...],
    image: Path | None,
    shapes: Shapes,
    top: int,
    out_path: Path | None,
    threads: int | None,
    page_cache: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run a model once within a memory budget.

    The first run with a budget measures the model layer by layer and plans; later ones find the plan in the cache.
    Without --input or --image the model is fed a sample of its own, or noise. MODEL may be a bundle of 'flexnn bundle':
    its hashes are checked, and where this machine is not like the one it was made on, the model is measured again.

    \b
    Examples:
      flexnn run squeezenet --budget 8MB --image cat.png --top 3
      flexnn run my_model.param --budget 64MiB --input data=x.npy -o y.npy
      flexnn run squeezenet-bundle --image cat.png
    """
    from flexnn_ncnn.measuring.running import run_model
    from flexnn_ncnn.reporters.json_report import write_json
    from flexnn_ncnn.reporters.runs import write_run
    from flexnn_ncnn.scores import summarise
    from flexnn_ncnn.zoo.registry import labels

    _check_target(out_path)
    with ProgressBars(disable=quiet) as bars:
        files = resolve_model(model, bin_path, progress=bars.update)
        feed = read_feed(model, files, inputs, image, shapes)
        request = make_request(files, feed, budget_bytes, threads, bars, quiet=quiet, page_cache=page_cache)
        report = run_model(request, feed.arrays, bars.update)
    if out_path is not None:
        _save(report.outputs, out_path)
    outputs = summarise(report.outputs, top, labels(files.entry) if files.entry else None)
    if as_json:
        fields = {name: value for name, value in vars(report).items() if name != "outputs"}
        write_json({"model": model, "input": feed.source, **fields, "outputs": outputs}, sys.stdout)
    else:
        write_run(report, model, feed.source, outputs, sys.stdout)
    if not report.within_budget:
        raise BudgetExceededError(budget_bytes=report.budget_bytes, peak_bytes=report.peak_bytes)


def _check_target(path: Path | None) -> None:
    """Finds out before the run, which may be long."""
    if path is None:
        return
    if path.suffix not in (".npy", ".npz"):
        raise UsageError(f"{path} does not end in .npy or .npz")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder", hint="make it first")


def _save(outputs: Mapping[str, npt.NDArray[Any]], path: Path) -> None:
    import numpy as np

    from param_tools.model_io import atomic_write

    if path.suffix == ".npy" and len(outputs) != 1:
        raise UsageError(f"the model has {len(outputs)} outputs: {', '.join(outputs)}", hint="give -o a name in .npz")
    with atomic_write(path) as file:
        if path.suffix == ".npy":
            (array,) = outputs.values()
            np.save(file, array)
            return
        with zipfile.ZipFile(file, "w") as archive:  # not numpy.savez, which some blobs' names would mean things to
            for blob, array in outputs.items():
                with archive.open(f"{blob}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
