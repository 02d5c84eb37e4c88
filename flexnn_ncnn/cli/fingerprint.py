"""`flexnn fingerprint`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from flexnn_ncnn.cli.options import json_option
from flexnn_ncnn.cli.output import force_option, refuse_existing

__all__ = ["command"]


@click.command("fingerprint")
@click.option(
    "-o",
    "--output",
    "out_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FINGERPRINT.json",
    help="Write it to a file, for 'flexnn bundle --for' on another machine.",
)
@force_option
@json_option
def command(out_path: Path | None, overwrite: bool, as_json: bool) -> None:
    """Show what profiles and plans of this machine belong to.

    Machines with the same fingerprint can use the same plan; any other one measures a model for itself first.

    \b
    Examples:
      flexnn fingerprint
      flexnn fingerprint -o pi.json
    """
    from flexnn_ncnn.device import this_device
    from flexnn_ncnn.records.formats import device_document
    from flexnn_ncnn.reporters.devices import write_machine
    from flexnn_ncnn.reporters.json_report import to_json, write_json
    from param_tools.model_io import atomic_write

    refuse_existing(out_path, overwrite)
    found = this_device()
    if out_path is not None:
        with atomic_write(out_path, "w") as file:
            file.write(to_json(device_document(found)) + "\n")
    if as_json:
        write_json(device_document(found), sys.stdout)
    else:
        write_machine(found.machine, sys.stdout)
