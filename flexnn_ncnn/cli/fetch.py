"""`flexnn fetch`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from flexnn_ncnn.cli.options import json_option, quiet_option
from flexnn_ncnn.cli.progress import ProgressBars

__all__ = ["command"]


@click.command("fetch")
@click.argument("url", metavar="URL")
@click.argument("path", metavar="PATH", type=click.Path(path_type=Path))
@json_option
@quiet_option
def command(url: str, path: Path, as_json: bool, quiet: bool) -> None:
    """Bring a file or a folder from a device over ssh or adb.

    Only what changed is brought, an interrupted transfer goes on where it stopped, and every file is proved by its hash
    before it gets its name.

    \b
    Examples:
      flexnn fetch ssh://pi@raspberrypi.local/~/out.npy .
      flexnn fetch adb://R58M12345/data/local/tmp/results results
    """
    from flexnn_ncnn.reporters.json_report import write_json
    from flexnn_ncnn.reporters.transfers import write_fetched
    from flexnn_ncnn.transfer import fetch, parse_place

    place = parse_place(url)
    with ProgressBars(disable=quiet, unit="B") as bars:
        report = fetch(place, path, bars.update)
    if as_json:
        write_json(report, sys.stdout)
    else:
        write_fetched(report, sys.stdout)
