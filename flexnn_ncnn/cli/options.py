"""Arguments and options that subcommands share, so that each means the same everywhere."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from flexnn_ncnn.cli.lazy import did_you_mean
from flexnn_ncnn.errors import InputError, UsageError
from flexnn_ncnn.paths import data_dir
from flexnn_ncnn.records.storage import PAGE_CACHES
from flexnn_ncnn.units import SizeError, parse_size

if TYPE_CHECKING:
    from flexnn_ncnn.bundles import Bundle
    from flexnn_ncnn.zoo.entry import ZooEntry

__all__ = [
    "SIZE",
    "ModelFiles",
    "budget_option",
    "bundle_threads_option",
    "json_option",
    "model_argument",
    "page_cache_option",
    "quiet_option",
    "resolve_model",
    "shape_option",
    "threads_option",
]

Function = TypeVar("Function", bound=Callable[..., Any])
Progress = Callable[[str, int, int], None]


class _Size(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.5 only
    """A size in bytes, as `units.parse_size` reads it."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return parse_size(value)
        except SizeError as error:
            self.fail(str(error), param, ctx)


class _Shape(click.ParamType):  # type: ignore[type-arg]
    """A blob and its shape, such as in0=3x224x224: the name, and the extents from the outermost on."""

    name = "shape"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[int, ...]]:
        blob, _, extents = str(value).rpartition("=")
        if not blob or not re.fullmatch(r"[1-9][0-9]{0,8}(x[1-9][0-9]{0,8}){0,3}", extents):
            self.fail(f"{value!r} is not BLOB=CxHxW, such as in0=3x224x224", param, ctx)
        return blob, tuple(map(int, extents.split("x")))


SIZE = _Size()
"""The type of every option that is a size in bytes."""

budget_option = click.option(
    "--budget",
    "budget_bytes",
    type=SIZE,
    metavar="SIZE",
    help="Bytes that inference may hold beyond the idle process, such as 100MB or 64MiB; a bundle has its own.",
)
shape_option = click.option(
    "--shape",
    "shapes",
    type=_Shape(),
    multiple=True,
    metavar="BLOB=CxHxW",
    help="Shape of an input, where the .param does not tell it; once for each.",
)
threads_option = click.option(
    "--threads", type=click.IntRange(1, 1024), default=1, show_default=True, metavar="N", help="Threads to compute on."
)
bundle_threads_option = click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Threads to compute on.  [default: 1; a bundle's own]",
)
page_cache_option = click.option(
    "--page-cache",
    type=click.Choice(PAGE_CACHES),
    default="mmap",
    show_default=True,
    help="Read streamed weights through the system's page cache, or directly past it: for memory limits that count it.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines instead of text.")
quiet_option = click.option("--quiet", "-q", is_flag=True, help="Show no progress.")


def model_argument(function: Function) -> Function:
    """Adds the argument MODEL and the option --bin: parameters `model: str` and `bin_path: Path | None`."""
    bin_option = click.option(
        "--bin",
        "bin_path",
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="The .bin, when it does not lie beside the .param under the same name.",
    )
    return click.argument("model", metavar="MODEL")(bin_option(function))


class ModelFiles(NamedTuple):
    """The files of a model named on the command line; whoever opens them finds out whether they are there.

    Attributes:
        param_path: the .param.
        bin_path: the .bin.
        entry: what the zoo says about it, or None for a model given by path.
        bundle: the bundle they are in, or None.
    """

    param_path: Path
    bin_path: Path
    entry: ZooEntry | None
    bundle: Bundle | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The inputs' shapes as far as others than the .param tell them."""
        inputs = self.bundle.manifest.inputs if self.bundle else self.entry.inputs if self.entry else ()
        return {spec.blob: spec.shape for spec in inputs}


def resolve_model(
    model: str, bin_path: Path | None = None, *, weights: bool = True, progress: Progress | None = None
) -> ModelFiles:
    """Finds the files of a zoo model, of the .param at a path, or of a bundle.

    Args:
        model: the name of a zoo model, or a path; what has a folder or a .param suffix is never a name.
        bin_path: the .bin, when it does not lie beside the .param.
        weights: whether the command needs the .bin; without, a zoo model need not be built.
        progress: called with (what, done bytes, of bytes) while a bundle is checked.

    Raises:
        UsageError: neither a name nor a path, a path of weights, or --bin beside a zoo name or a bundle.
        InputError: the zoo model is not built.
        BundleError: the bundle is damaged.
    """
    from flexnn_ncnn import zoo

    path = Path(model)
    is_path = os.path.dirname(model) != "" or path.suffix in (".param", ".bin")
    if not is_path and model in zoo.names():
        if bin_path is not None:
            raise UsageError(f"{model!r} is a model of the zoo, which has its own .bin", hint="leave --bin out")
        return _files_in_zoo(model, weights)
    if not is_path and not path.exists():
        raise UsageError(
            f"{model!r} is neither a model of the zoo nor a .param file{did_you_mean(model, zoo.names())}",
            hint="'flexnn models list' shows the zoo",
        )
    if path.is_dir() or path.suffix == ".tar":
        return _files_in_bundle(path, bin_path, progress)
    return _files_at(path, bin_path)


def _files_at(param_path: Path, bin_path: Path | None) -> ModelFiles:
    from param_tools.model_io import default_bin_path

    if param_path.suffix == ".bin" and not param_path.name.endswith(".param.bin"):
        raise UsageError(f"{param_path} holds weights", hint=f"name the graph, {param_path.with_suffix('.param')}")
    return ModelFiles(param_path, bin_path or default_bin_path(param_path), None)


def _files_in_bundle(path: Path, bin_path: Path | None, progress: Progress | None) -> ModelFiles:
    from flexnn_ncnn import zoo
    from flexnn_ncnn.bundles import is_bundle, open_bundle

    if not is_bundle(path):
        raise UsageError(f"'{path}' is a folder", hint="name a .param file in it, a bundle, or a model of the zoo")
    if bin_path is not None:
        raise UsageError(f"'{path}' is a bundle, which has its own .bin", hint="leave --bin out")
    opened = open_bundle(path, progress)
    name = opened.manifest.zoo
    return ModelFiles(opened.param_path, opened.bin_path, zoo.entry(name) if name in zoo.names() else None, opened)


def _files_in_zoo(name: str, weights: bool) -> ModelFiles:
    from flexnn_ncnn import zoo

    entry = zoo.entry(name)
    param_path, bin_path = zoo.model_paths(name)
    if zoo.is_built(name):
        return ModelFiles(param_path, bin_path, entry)
    if weights or not entry.graph:
        raise InputError(f"the model {name} is not built yet", hint=f"run 'flexnn models build {name}'")
    return ModelFiles(data_dir() / entry.graph, bin_path, entry)
