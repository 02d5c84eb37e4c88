"""`flexnn slice`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from flexnn_ncnn.cli.options import SIZE, json_option, model_argument, resolve_model, shape_option
from flexnn_ncnn.cli.output import force_option, new_model_option, refuse_overwriting
from flexnn_ncnn.errors import UsageError

__all__ = ["command"]


@click.command("slice")
@model_argument
@new_model_option
@click.option(
    "--budget",
    "budget_bytes",
    type=SIZE,
    metavar="SIZE",
    help="Slice so that two slices at a time can be loaded in this many bytes, ncnn's transformed weights counted.",
)
@click.option("--max-conv", "conv_bytes", type=SIZE, metavar="SIZE", help="Most bytes of weights of a convolution.")
@click.option(
    "--max-fc",
    "fc_bytes",
    type=SIZE,
    metavar="SIZE",
    help="Most bytes of weights of a fully connected layer: InnerProduct, Gemm, MultiHeadAttention, Embed.",
)
@click.option("--exact", "exact_only", is_flag=True, help="Slice only what gives the same bits as the whole layer.")
@shape_option
@force_option
@json_option
def command(
    model: str,
    bin_path: Path | None,
    out_path: Path,
    budget_bytes: int | None,
    conv_bytes: int | None,
    fc_bytes: int | None,
    exact_only: bool,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    overwrite: bool,
    as_json: bool,
) -> None:
    """Cut layers with many weights into slices.

    The result is an ordinary model that stock ncnn runs too. OUT.slices.json records what was cut. Sizes count weights
    as ncnn holds them: fp32, or int8.

    \b
    Examples:
      flexnn slice vgg19 -o vgg19-sliced.param --budget 64MiB
      flexnn slice my_model.param -o sliced.param --max-conv 2MB --max-fc 8MB
    """
    from flexnn_ncnn.reporters.json_report import write_json
    from flexnn_ncnn.reporters.rewrites import write_slices
    from param_tools.model_io import open_model
    from param_tools.shapes import BlobShape, infer_shapes
    from param_tools.slicing.policy import WeightLimits
    from param_tools.slicing.slicer import slice_model

    if budget_bytes is None and conv_bytes is None and fc_bytes is None:
        raise UsageError("nothing says how small slices should be", hint="give --budget, or --max-conv and --max-fc")
    files = resolve_model(model, bin_path)
    refuse_overwriting(out_path, overwrite, ".slices.json")
    known = files.shapes
    with open_model(files.param_path, files.bin_path) as opened:
        inputs = {blob: BlobShape.from_numpy(shape) for blob, shape in (known | dict(shapes)).items()}
        inferred = {blob: shape for blob, shape in infer_shapes(opened.model, inputs).items() if shape is not None}
        limits = WeightLimits(conv_bytes, fc_bytes, None if budget_bytes is None else max(budget_bytes // 2, 1))
        done = slice_model(opened, out_path, limits, exact_only=exact_only, shapes=inferred)
    if as_json:
        write_json(done, sys.stdout)
    else:
        write_slices(done, out_path, sys.stdout)
