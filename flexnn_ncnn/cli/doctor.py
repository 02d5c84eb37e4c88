"""`flexnn doctor`."""

from __future__ import annotations

import sys

import click

from flexnn_ncnn.cli.options import json_option

__all__ = ["command"]


@click.command("doctor")
@json_option
def command(as_json: bool) -> None:
    """Show what this device can do, and what to install where it cannot.

    Writes and reads a file of 32 MB in the cache folder to tell the storage's speed.

    \b
    Examples:
      flexnn doctor
      flexnn doctor --json
    """
    from flexnn_ncnn.device.doctor import examine
    from flexnn_ncnn.reporters.devices import write_device
    from flexnn_ncnn.reporters.json_report import write_json

    report = examine()
    if as_json:
        write_json(report, sys.stdout)
    else:
        write_device(report, sys.stdout)
