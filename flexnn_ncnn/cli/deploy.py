"""`flexnn deploy`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from flexnn_ncnn.cli.options import json_option, quiet_option
from flexnn_ncnn.cli.progress import ProgressBars

__all__ = ["command"]


@click.command("deploy")
@click.argument("bundle", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.argument("url", metavar="URL")
@json_option
@quiet_option
def command(bundle: Path, url: str, as_json: bool, quiet: bool) -> None:
    """Bring a bundle to a device over ssh or adb.

    Only files that changed are sent. An interrupted transfer goes on where it stopped when the command is given again.
    Every file is proved by its hash before any of it gets its name, so a bundle that was there stays whole until then.
    The system's own ssh or adb does it, with its keys and settings; the device needs sh, dd and sha256sum, which
    Raspberry Pi OS, Termux and Android have.

    \b
    Examples:
      flexnn deploy squeezenet-bundle ssh://pi@raspberrypi.local/~/squeezenet
      flexnn deploy squeezenet-bundle adb://R58M12345/data/local/tmp/squeezenet
    """
    from flexnn_ncnn.bundles import open_bundle
    from flexnn_ncnn.reporters.json_report import write_json
    from flexnn_ncnn.reporters.transfers import write_deployed
    from flexnn_ncnn.transfer import deploy_bundle, parse_place

    place = parse_place(url)
    with ProgressBars(disable=quiet, unit="B") as bars:
        report = deploy_bundle(open_bundle(bundle, bars.update), place, bars.update)
    if as_json:
        write_json(report, sys.stdout)
    else:
        write_deployed(report, place, sys.stdout)
