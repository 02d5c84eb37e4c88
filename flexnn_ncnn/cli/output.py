"""Options of the commands that write a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from flexnn_ncnn.errors import InputError

__all__ = ["check_folder", "force_option", "new_model_option", "refuse_existing", "refuse_overwriting"]


def _param_path(context: click.Context, parameter: click.Parameter, value: Any) -> Path:
    path = Path(value)
    if path.suffix != ".param":
        raise click.BadParameter(f"{path} does not end in .param", context, parameter)
    return path


new_model_option = click.option(
    "-o",
    "--output",
    "out_path",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    callback=_param_path,
    metavar="OUT.param",
    help="Where the .param goes; the .bin goes beside it.",
)
force_option = click.option("--force", "overwrite", is_flag=True, help="Replace files that exist.")


def refuse_overwriting(param_path: Path, overwrite: bool, *suffixes: str) -> None:
    """Checks that neither the .param nor the files beside it exist.

    Args:
        param_path: the .param to be written.
        overwrite: whether they may.
        suffixes: of further files, instead of ".param", beside the .bin.

    Raises:
        InputError: one does, or the folder does not.
    """
    if not param_path.parent.is_dir():
        raise InputError(f"{param_path.parent}: no such folder", hint="make it first")
    for path in (param_path, *(param_path.with_suffix(suffix) for suffix in (".bin", *suffixes))):
        if path.exists() and not overwrite:
            raise InputError(f"{path} exists already", hint="give another name, or --force to replace it")


def refuse_existing(path: Path | None, overwrite: bool) -> None:
    """Checks, where a file is to be written, that it does not exist.

    Raises:
        InputError: it does and may not be replaced, or its folder does not.
    """
    if path is None:
        return
    check_folder(path.parent)
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already", hint="give another name, or --force to replace it")


def check_folder(folder: Path | None) -> None:
    """Checks, where files are to be written, that the folder exists.

    Raises:
        InputError: it does not.
    """
    if folder is not None and not folder.is_dir():
        raise InputError(f"{folder}: no such folder", hint="make it first")
