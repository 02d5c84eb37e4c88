"""The `flexnn` command: the table of subcommands, and the one place that turns errors into exit statuses."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from flexnn_ncnn.cli.lazy import LazyGroup, Subcommand
from flexnn_ncnn.reporters.escape import printable
from param_tools.errors import FlexnnError

__all__ = ["SUBCOMMANDS", "flexnn", "main"]

SUBCOMMANDS = {
    "models": Subcommand("flexnn_ncnn.cli.models:command", "List and build the models of the zoo."),
    "inspect": Subcommand(
        "flexnn_ncnn.cli.inspect:inspect", "Show a model's layers and weights, and what can be sliced."
    ),
    "run": Subcommand("flexnn_ncnn.cli.run:run", "Run a model once within a memory budget."),
    "profile": Subcommand("flexnn_ncnn.cli.profile:profile", "Measure a model layer by layer on this machine."),
    "schedule": Subcommand(
        "flexnn_ncnn.cli.schedule:schedule", "Plan a model within a memory budget, without running it."
    ),
    "plan": Subcommand("flexnn_ncnn.cli.schedule:plan", "The same as 'flexnn schedule'."),
    "compare": Subcommand("flexnn_ncnn.cli.compare:compare", "Compare with stock ncnn: time, memory, and the answer."),
    "bench": Subcommand("flexnn_ncnn.cli.bench:bench", "Time ways to run a model against each other."),
    "adapt": Subcommand(
        "flexnn_ncnn.cli.adapt:adapt", "Change the budget while a model computes, and show what that costs."
    ),
    "slice": Subcommand("flexnn_ncnn.cli.slice:command", "Cut layers with many weights into slices."),
    "convert": Subcommand("flexnn_ncnn.cli.convert:command", "Store a model's weights as fp16, or as fp32 again."),
    "bundle": Subcommand(
        "flexnn_ncnn.cli.bundle:command", "Write everything a device needs to run a model within a budget."
    ),
    "deploy": Subcommand("flexnn_ncnn.cli.deploy:command", "Bring a bundle to a device over ssh or adb."),
    "fetch": Subcommand("flexnn_ncnn.cli.fetch:command", "Bring a file or a folder from a device over ssh or adb."),
    "doctor": Subcommand(
        "flexnn_ncnn.cli.doctor:command", "Show what this device can do, and what to install where it cannot."
    ),
    "runtime": Subcommand(
        "flexnn_ncnn.cli.runtime:command", "Show what the ncnn in use can do, and build a patched one."
    ),
    "fingerprint": Subcommand(
        "flexnn_ncnn.cli.fingerprint:command", "Show what profiles and plans of this machine belong to."
    ),
}
"""The subcommands in the order `flexnn --help` shows them."""

_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_BROKEN_PIPE = 141  # 128 + SIGPIPE


def _print_versions(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(f"flexnn-ncnn {_version_of('flexnn-ncnn')} (ncnn {_version_of('ncnn')})")
        ctx.exit()


def _version_of(distribution: str) -> str:
    from importlib import metadata  # 40 ms that only this option needs

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


@click.group(
    cls=LazyGroup,
    subcommands=SUBCOMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_versions, help="Show the versions."
)
def flexnn() -> None:
    """Run NCNN models under a byte budget, on the stock ncnn package.

    MODEL is a model of the zoo (see 'flexnn models list') or the path of a .param file, its .bin beside it. Sizes are
    bytes or such as 100MB (10^6) and 64MiB (2^20).

    \b
    Exit status:
      0  done
      1  bad input, or a failure such as a full disk
      2  usage
      3  the budget cannot work
      4  outputs differ, or the budget was exceeded
    """


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        args: the arguments; those of the process when None.

    Returns:
        The exit status. Errors of ours, of click and of the system end as one sentence on stderr; anything else is a
        bug and keeps its traceback.
    """
    _ready_streams()
    try:
        with _cleaning_up_when_terminated():
            status = _run(list(sys.argv[1:] if args is None else args))
            sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        status = _BROKEN_PIPE
    except OSError as error:
        status = _complain(_describe(error))
    except FlexnnError as error:
        status = _complain(str(error), error.exit_code)
    except MemoryError:
        status = _complain("out of memory")
    except (KeyboardInterrupt, click.Abort):
        status = _complain("interrupted", _INTERRUPTED)
    _silence_unwritable_stdout()
    return status


def _run(args: list[str]) -> int:
    # Not flexnn.main(): that one turns a closed pipe and Ctrl-C into statuses of its own.
    try:
        with flexnn.make_context("flexnn", args) as context:
            flexnn.invoke(context)
    except click.exceptions.Exit as request:
        return request.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        where = getattr(error, "ctx", None)
        status = _complain(error.format_message(), error.exit_code)
        if where is not None:
            click.echo(f"Try '{where.command_path} --help' for help.", err=True)
        return status
    return 0


@contextmanager
def _cleaning_up_when_terminated() -> Iterator[None]:
    """Turns SIGTERM and SIGHUP into SystemExit meanwhile, so that temporary files go as they do on Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may have handlers
        return

    def leave(number: int, _: object) -> None:
        sys.exit(128 + number)

    known = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # Under nohup SIGHUP is ignored, and is to stay so.
    taken = [number for number in known if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _complain(sentence: str, status: int = 1) -> int:
    click.echo(f"flexnn: error: {printable(sentence)}", err=True)
    return status


def _describe(error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{os.fsdecode(error.filename)}: {reason}" if isinstance(error.filename, (str, bytes)) else reason


def _ready_streams() -> None:
    if sys.stdout is None:  # closed by the caller, as `flexnn ... >&-` does
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - lives as long as the process
    if sys.stdout is not sys.__stdout__ or not isinstance(sys.stdout, io.TextIOWrapper):
        return  # somebody else's, who has seen to it
    if isinstance(sys.stdout.buffer, io.RawIOBase):  # PYTHONUNBUFFERED: what a short write leaves over would be lost
        buffer = io.BufferedWriter(sys.stdout.buffer)
        sys.stdout = io.TextIOWrapper(buffer, encoding=sys.stdout.encoding, line_buffering=True)
    sys.stdout.reconfigure(errors="backslashreplace")  # a name in a file may hold what the terminal cannot show


def _silence_unwritable_stdout() -> None:
    """Sends what is still in stdout's buffer nowhere when it cannot be written, or Python complains at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
