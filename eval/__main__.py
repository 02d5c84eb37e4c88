"""`python -m eval`: measures, and writes a report of what was measured."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from eval.cells import EXPERIMENTS, Effort, cells_of
from eval.commands import flexnn
from eval.devices import DEVICES, check_device
from eval.measuring import run_cells
from eval.report import write_report
from eval.results import Results
from flexnn_ncnn.errors import SizeError
from flexnn_ncnn.reporters.plots import new_figure
from flexnn_ncnn.units import parse_size
from param_tools.errors import FlexnnError

__all__ = ["main"]

_QUICK = Effort(loops=2, warmups=0, passes=2, is_quick=True, limit_percent=50, adaptive_runs=8)
_FULL = Effort()


def _names(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(value.split(",")) if value else ()


def _sizes(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...]:
    try:
        return tuple(map(parse_size, _names(context, parameter, value)))
    except SizeError as error:
        raise click.BadParameter(str(error), context, parameter) from error


@click.command()
@click.argument("experiment", type=click.Choice((*EXPERIMENTS, "all", "report")))
@click.option("--models", callback=_names, metavar="M,M,...", help="Zoo models, or .param files; those it is about.")
@click.option("--budgets", callback=_sizes, metavar="SIZE,SIZE,...", help="Such as 60MB,100MB; those it is about.")
@click.option(
    "--out",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("eval-results"),
    show_default=True,
    metavar="DIR",
    help="Where results and the report go; what lies there already is not measured again.",
)
@click.option("--quick", is_flag=True, help="Fewer models, budgets and inferences: a quarter of an hour.")
@click.option(
    "--device",
    type=click.Choice(tuple(DEVICES)),
    default="host",
    show_default=True,
    help="What to imitate; needs root.",
)
@click.option("--threads", type=click.IntRange(1, 1024), default=1, show_default=True, help="Compute threads.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def command(
    experiment: str,
    models: tuple[str, ...],
    budgets: tuple[int, ...],
    folder: Path,
    quick: bool,
    device: str,
    threads: int,
    quiet: bool,
) -> None:
    """Repeat FlexNN's evaluation on this machine, or on a device that is imitated on it.

    \b
      end-to-end  latency over memory: stock ncnn, layer streaming, and this package within budgets
      ablation    this package without parts of what it does
      overhead    what has to be done before the first inference, and what it costs
      adaptive    budgets that change while a model computes
      peers       other runtimes on the same graphs
      all         these, one after the other
      report      nothing is measured, the report is written again

    Killed half-way, it goes on where it was. DIR/results.jsonl has a line for each measurement, DIR/report.md and
    DIR/report.html the tables and figures.
    """
    if experiment != "report":
        check_device(device)
    effort = replace(_QUICK if quick else _FULL, threads=threads, device=device)
    wanted = [one for one in EXPERIMENTS if experiment in (one, "all")]
    cells = [cell for one in wanted for cell in cells_of(one, models, budgets, effort)]
    new_figure(1, 1)  # finds out whether there is matplotlib before hours of measuring
    results = Results(folder, flexnn("fingerprint").found)
    with _Bar(disable=quiet) as bar:
        failures = run_cells(cells, results, bar.update)
    click.echo(f"Wrote {write_report(results, folder)}")
    if failures:
        raise FlexnnError(f"{len(failures)} of {len(cells)} measurements failed, the first one so: {failures[0]}")


class _Bar:
    """Progress with the time left, on stderr; a context manager."""

    def __init__(self, *, disable: bool) -> None:
        self._disable = disable
        self._bar: Any = None

    def update(self, what: str, done: int, of: int) -> None:
        """Show how far the measurements are."""
        from tqdm import tqdm

        if of == 0:
            return
        if self._bar is None:
            self._bar = tqdm(total=of, unit="cell", disable=self._disable, file=sys.stderr)
        self._bar.set_description_str(what, refresh=False)
        self._bar.update(done - self._bar.n)
        self._bar.refresh()

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that control groups are removed
    try:
        command.main(arguments, prog_name="python -m eval", standalone_mode=False)
    except click.exceptions.Exit as request:
        return request.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except FlexnnError as error:
        click.echo(f"eval: error: {error}", err=True)
        return error.exit_code
    except OSError as error:
        click.echo(f"eval: error: {error}", err=True)
        return 1
    except (KeyboardInterrupt, click.Abort):
        click.echo("eval: interrupted; the same command goes on from here", err=True)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
