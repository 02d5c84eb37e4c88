"""`flexnn bundle`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from flexnn_ncnn.cli.feed import Shapes, feed_options, read_feed
from flexnn_ncnn.cli.options import (
    SIZE,
    json_option,
    model_argument,
    quiet_option,
    resolve_model,
    threads_option,
)
from flexnn_ncnn.cli.output import force_option, refuse_existing
from flexnn_ncnn.cli.progress import ProgressBars

__all__ = ["command"]


@click.command("bundle")
@model_argument
@click.option(
    "--budget",
    "budget_bytes",
    type=SIZE,
    required=True,
    metavar="SIZE",
    help="Bytes that inference may hold beyond the idle process, such as 100MB or 64MiB.",
)
@click.option(
    "--for",
    "target",
    default="",
    metavar="DEVICE",
    help="What it is made for: pi4, pi5, android, or a file of 'flexnn fingerprint' of that machine.",
)
@click.option(
    "--profile",
    "profile_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="PROFILE.json",
    help="What 'flexnn profile' measured on the device: plan for it here, so that it need not measure.",
)
@click.option(
    "-o",
    "--output",
    "out_path",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FOLDER|FILE.tar",
    help="Where the bundle goes: a folder, which runs where it lies, or one file, which is unpacked at its first run.",
)
@feed_options
@threads_option
@force_option
@json_option
@quiet_option
def command(
    model: str,
    bin_path: Path | None,
    budget_bytes: int,
    target: str,
    profile_path: Path | None,
    out_path: Path,
    inputs: tuple[str, ...],
    image: Path | None,
    shapes: Shapes,
    threads: int,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write everything a device needs to run a model within a budget.

    The model is measured, planned and tried here. A machine like this one uses that plan as it is; any other one
    measures the model at its first run and makes a plan of its own. With --profile it is planned here with what was
    measured there, and tried there before it is used. Every file is proved by its SHA-256.

    With --for, a budget beyond the device's memory and more threads than it has CPUs are refused, and what should be
    known beforehand is said. Where the file of another machine's fingerprint is given, 'flexnn run' elsewhere says so.

    \b
    Examples:
      flexnn bundle squeezenet --budget 8MB --for pi5 -o squeezenet-bundle
      flexnn bundle my_model.param --budget 64MiB --for pi.json -o my_model.tar
      flexnn bundle my_model.param --budget 64MiB --profile measured-on-pi.json -o my_model.tar
    """
    from flexnn_ncnn.bundles.making import Wanted, make_bundle
    from flexnn_ncnn.bundles.targets import find_target
    from flexnn_ncnn.device import here
    from flexnn_ncnn.model_inputs import input_specs
    from flexnn_ncnn.preparing.preparation import Request
    from flexnn_ncnn.records.formats import read_profile
    from flexnn_ncnn.records.options import RunOptions
    from flexnn_ncnn.reporters.bundles import write_bundle
    from flexnn_ncnn.reporters.json_report import write_json
    from param_tools.model_io import read_param

    refuse_existing(out_path, overwrite)
    profile = read_profile(profile_path) if profile_path else None
    made_for = find_target(target, here(), profile.machine_facts if profile else None)
    files = resolve_model(model, bin_path)
    feed = read_feed(model, files, inputs, image, shapes)
    fed = {blob: tuple(array.shape) for blob, array in feed.arrays.items()}
    request = Request(files.param_path, files.bin_path, budget_bytes, RunOptions(num_threads=threads))
    wanted = Wanted(
        request=request,
        name=files.entry.name if files.entry else files.param_path.stem,
        zoo=files.entry.name if files.entry else "",
        inputs=input_specs(read_param(files.param_path), fed),
        target=made_for,
        profile=profile,
    )
    with ProgressBars(disable=quiet) as bars:
        report = make_bundle(wanted, feed.arrays, out_path, bars.update)
    if as_json:
        write_json(report, sys.stdout)
    else:
        write_bundle(report, sys.stdout)
