"""`flexnn convert`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from flexnn_ncnn.cli.options import json_option, model_argument, resolve_model
from flexnn_ncnn.cli.output import force_option, new_model_option, refuse_overwriting

__all__ = ["command"]


@click.command()
@model_argument
@new_model_option
@click.option(
    "--weights",
    "encoding",
    type=click.Choice(["fp16", "fp32"]),
    required=True,
    help="How to store the weights.",
)
@force_option
@json_option
def command(model: str, bin_path: Path | None, out_path: Path, encoding: str, overwrite: bool, as_json: bool) -> None:
    """Store a model's weights as fp16, or as fp32 again.

    fp16 is half the bytes to read from storage, and lossy: each weight is rounded, to one part in 2048. ncnn widens the
    weights when it loads them. Biases, int8 weights and values too large for fp16 stay as they are.

    \b
    Examples:
      flexnn convert vgg19 -o vgg19-fp16.param --weights fp16
      flexnn convert vgg19-fp16.param -o vgg19-fp32.param --weights fp32
    """
    from flexnn_ncnn.reporters.json_report import write_json
    from flexnn_ncnn.reporters.rewrites import write_conversion
    from param_tools.convert import convert_weights
    from param_tools.encoding import Encoding
    from param_tools.model_io import open_model

    files = resolve_model(model, bin_path)
    refuse_overwriting(out_path, overwrite)
    with open_model(files.param_path, files.bin_path) as opened:
        done = convert_weights(opened, out_path, Encoding(encoding))
    if as_json:
        write_json(done, sys.stdout)
    else:
        write_conversion(done, out_path, sys.stdout)
