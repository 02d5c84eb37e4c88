"""`flexnn runtime`: the ncnn in use, and a patched one."""

from __future__ import annotations

import sys

import click

from flexnn_ncnn.cli.options import json_option, quiet_option
from flexnn_ncnn.cli.progress import ProgressBars

__all__ = ["command"]


@click.group()
def command() -> None:
    """Show what the ncnn in use can do, and build a patched one.

    Everything works on the stock wheel. A patched ncnn lets layers be loaded while others are
    computed, and keeps transformed weights.

    \b
    Examples:
      flexnn runtime info
      flexnn runtime build --native
      flexnn runtime install
    """


@command.command("info")
@json_option
def info(as_json: bool) -> None:
    """Show what the ncnn in use can do, and what that is good for.

    \b
    Examples:
      flexnn runtime info
      flexnn runtime info --json
    """
    from flexnn_ncnn.building.install import runtime_info
    from flexnn_ncnn.reporters.json_report import write_json
    from flexnn_ncnn.reporters.runtime import write_info

    found = runtime_info()
    if as_json:
        write_json(found, sys.stdout)
    else:
        write_info(found, sys.stdout)


@command.command("build")
@click.option("--jobs", "-j", type=click.IntRange(1, 1024), metavar="N", help="Files to compile at a time.")
@click.option("--native", is_flag=True, help="Only the kernels of this CPU: fewer files to compile.")
@click.option("--vulkan", is_flag=True, help="With GPU support, as the stock wheel has it.")
@click.option("--force", is_flag=True, help="Build again what is built already.")
@quiet_option
@json_option
def build(jobs: int | None, native: bool, vulkan: bool, force: bool, quiet: bool, as_json: bool) -> None:
    """Build a wheel of ncnn with the patches that come with this package.

    pip fetches ncnn's source. A C++ compiler has to be there; cmake is fetched where it is not. The wheel is kept, and
    an interrupted build goes on where it was.

    \b
    Examples:
      flexnn runtime build
      flexnn runtime build --native --jobs 2
    """
    from flexnn_ncnn.building.build import build_wheel
    from flexnn_ncnn.building.recipe import Recipe
    from flexnn_ncnn.reporters.json_report import write_json
    from flexnn_ncnn.reporters.runtime import write_wheel

    with ProgressBars(disable=quiet) as bars:
        wheel = build_wheel(Recipe(native=native, vulkan=vulkan), bars.update, jobs=jobs, force=force)
    if as_json:
        write_json(wheel, sys.stdout)
    else:
        write_wheel(wheel, sys.stdout)


@command.command("install")
@json_option
def install(as_json: bool) -> None:
    """Install the newest patched ncnn that was built, in place of the ncnn of this Python.

    \b
    Examples:
      flexnn runtime install
    """
    from flexnn_ncnn.building.install import install_wheel, newest_wheel
    from flexnn_ncnn.reporters.json_report import write_json
    from flexnn_ncnn.reporters.runtime import write_installed

    done = install_wheel(newest_wheel())
    if as_json:
        write_json(done, sys.stdout)
    else:
        write_installed(done, sys.stdout)
