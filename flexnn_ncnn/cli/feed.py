"""`--input`, `--image` and `--shape`: what a command feeds the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from flexnn_ncnn.cli.options import ModelFiles, shape_option
from flexnn_ncnn.errors import InputError, UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    from flexnn_ncnn.zoo.entry import InputSpec

__all__ = ["Feed", "feed_options", "read_feed"]

Function = TypeVar("Function", bound=Callable[..., Any])
Shapes = tuple[tuple[str, tuple[int, ...]], ...]


class Feed(NamedTuple):
    """What goes in.

    Attributes:
        arrays: an array per input blob.
        source: where they are from, for people.
    """

    arrays: Mapping[str, npt.NDArray[Any]]
    source: str


def feed_options(function: Function) -> Function:
    """Adds --input, --image and --shape: parameters `inputs`, `image` and `shapes`."""
    inputs = click.option(
        "--input",
        "inputs",
        multiple=True,
        metavar="[BLOB=]x.npy",
        help="An array to feed; with the blob's name, and once for each, where the model has several inputs.",
    )
    image = click.option(
        "--image", type=click.Path(path_type=Path), metavar="PHOTO", help="A picture to feed, scaled and cut to fit."
    )
    return inputs(image(shape_option(function)))


def read_feed(model: str, files: ModelFiles, inputs: tuple[str, ...], image: Path | None, shapes: Shapes) -> Feed:
    """The arrays that the options name, or a sample where they name none.

    Raises:
        UsageError: options that contradict each other.
        InputError: an array or a picture that the model cannot take.
        ModelFormatError: the .param is bad.
    """
    from flexnn_ncnn.model_inputs import as_blobs, input_specs, load_array, sample_arrays
    from flexnn_ncnn.zoo.inputs import picture_input, sample_input
    from param_tools.model_io import read_param

    if inputs and image:
        raise UsageError("--input and --image both say what to feed", hint="give one of them")
    if inputs and shapes:
        raise UsageError("--input says the shape already", hint="leave --shape out")
    entry = files.entry
    specs = input_specs(read_param(files.param_path), files.shapes | dict(shapes))
    if inputs:
        paths = _paths(inputs, specs)
        arrays = {blob: load_array(path) for blob, path in paths.items()}
        return Feed(as_blobs(specs, arrays), ", ".join(paths.values()))
    if image:
        if len(specs) == 1 and not specs[0].shape:
            raise InputError(f"{model} does not tell its picture's size", hint=f"give --shape {specs[0].blob}=3xHxW")
        picture = picture_input(model, specs, image, entry.image if entry else None)
        return Feed({specs[0].blob: picture}, str(image))
    if entry and not shapes:
        return Feed(sample_input(entry), f"the zoo's sample for {entry.name}")
    return Feed(sample_arrays(specs, model), "noise (no --input, no --image)")


def _paths(inputs: tuple[str, ...], specs: tuple[InputSpec, ...]) -> dict[str, str]:
    """Blob -> path of each --input."""
    names = [spec.blob for spec in specs]
    found: dict[str, str] = {}
    for text in inputs:
        blob, equals, path = text.partition("=")
        if not equals or (blob not in names and Path(text).exists()):
            if len(names) != 1:
                raise UsageError(
                    f"--input {text} does not say which input", hint=f"give BLOB=x.npy: {', '.join(names)}"
                )
            blob, path = names[0], text
        if blob in found:
            raise UsageError(f"--input is given twice for {blob!r}")
        found[blob] = path
    return found
