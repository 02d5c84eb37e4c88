"""`flexnn inspect`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from flexnn_ncnn.cli.options import json_option, model_argument, resolve_model, shape_option

__all__ = ["inspect"]


@click.command()
@model_argument
@click.option(
    "--top", type=click.IntRange(0), default=10, show_default=True, metavar="N", help="Largest layers to list."
)
@shape_option
@json_option
def inspect(
    model: str, bin_path: Path | None, top: int, shapes: tuple[tuple[str, tuple[int, ...]], ...], as_json: bool
) -> None:
    """Show a model's layers and weights, and what can be sliced.

    The .bin need not be there: sizes are those of fp32 weights then. --json lists every layer.

    \b
    Examples:
      flexnn inspect squeezenet
      flexnn inspect my_model.param --bin weights/my_model.bin --shape data=3x640x640
    """
    from flexnn_ncnn.inspection import inspect_model
    from flexnn_ncnn.reporters.json_report import write_json
    from flexnn_ncnn.reporters.text import write_inspection
    from param_tools.model_io import open_model

    files = resolve_model(model, bin_path, weights=False)
    known = files.shapes
    with open_model(files.param_path, files.bin_path, missing_bin_ok=bin_path is None) as opened:
        found = inspect_model(opened, known | dict(shapes))
    if as_json:
        write_json(found, sys.stdout)
    else:
        write_inspection(found, sys.stdout, top=top)
