from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import click
import pytest

from flexnn_ncnn.cli import main as cli
from flexnn_ncnn.cli.lazy import Subcommand
from flexnn_ncnn.errors import BudgetError, InputError, MismatchError, UsageError
from param_tools.errors import ModelFormatError


@dataclass(frozen=True)
class Ready(Subcommand):
    """A subcommand that is already imported."""

    action: Callable[[], None] = field(default=lambda: None, kw_only=True)

    def load(self) -> click.Command:
        return click.Command("try", callback=self.action)


def run(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    def action() -> None:
        raise error

    monkeypatch.setitem(cli.SUBCOMMANDS, "try", Ready("", "", action=action))
    return cli.main(["try"])


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (InputError("wrong shape", hint="give 3x4"), 1, "wrong shape; give 3x4"),
        (ModelFormatError("bad magic", path="m.param", line=1), 1, "m.param:1: bad magic"),
        (UsageError("no such thing"), 2, "no such thing"),
        (BudgetError(budget_bytes=5, smallest_bytes=9, culprit="fc6"), 3, "fc6 needs 9 B; give 9B or more"),
        (MismatchError("outputs differ by 1"), 4, "outputs differ by 1"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out.npy"), 1, "out.npy: No space left on device"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), b"m.bin"), 1, "m.bin: Permission denied"),
        (OSError("something rare"), 1, "something rare"),
        (MemoryError(), 1, "out of memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (InputError("layer \x1b[31m"), 1, r"layer \x1b[31m"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_what_a_user_can_cause_is_one_sentence_and_a_status(
    error: BaseException,
    status: int,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, error) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("flexnn: error: ")
    assert err.count("\n") == 1
    assert sentence in err


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        run(monkeypatch, ZeroDivisionError())


@pytest.mark.parametrize(
    ("args", "status", "parts"),
    [
        ([], 2, ["Usage: flexnn", "inspect"]),
        (["inspekt"], 2, ["no command 'inspekt', did you mean 'inspect'?", "Try 'flexnn --help'"]),
        (["xyz"], 2, ["no command 'xyz'\n"]),
        (["--versoin"], 2, ["--version"]),
        (["inspect", "--bun", "x"], 2, ["--bin", "Try 'flexnn inspect --help'"]),
        (["inspect"], 2, ["Missing argument 'MODEL'"]),
        (["inspect", "a", "b"], 2, ["unexpected extra argument"]),
    ],
)
def test_usage_errors_say_what_was_meant(
    args: list[str], status: int, parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(args) == status
    out, err = capsys.readouterr()
    assert out == ""
    for part in parts:
        assert part in err


def test_versions_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("flexnn-ncnn ")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_command(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([flag]) == 0
    out = capsys.readouterr().out
    assert out.index("Exit status:") < out.index("Commands:")
    for name, found in cli.SUBCOMMANDS.items():
        assert f"  {name} " in out
        assert found.summary.split(maxsplit=1)[0] in out


def leaves(command: click.Command, path: str) -> list[tuple[str, click.Command]]:
    """The commands that do something, with the words that call them."""
    if not isinstance(command, click.Group):
        return [(path, command)]
    context = click.Context(command, **command.context_settings)  # click notes what asks for help the first time
    found = []
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        assert below is not None
        found += leaves(below, f"{path} {name}")
    return found


@pytest.mark.parametrize("name", cli.SUBCOMMANDS)
def test_every_command_is_where_the_table_says_and_explains_itself(name: str) -> None:
    entry = cli.SUBCOMMANDS[name]
    command = entry.load()
    assert entry.summary == command.get_short_help_str(limit=200)
    for path, leaf in leaves(command, f"flexnn {name}"):
        assert leaf.help, path
        assert "Example" in leaf.help, path
        assert path in leaf.help, path
        assert any("--json" in parameter.opts for parameter in leaf.params), path
        for parameter in leaf.params:
            assert isinstance(parameter, click.Argument) or getattr(parameter, "help", None), (path, parameter.name)


# What only a real process shows: pipes, signals, full disks.

PRINT_MUCH = "for _ in range(100_000): click.echo('a line')"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2]), "PYTHONIOENCODING": "utf-8"}
WAIT = "click.echo('ready'); time.sleep(600)"
WAIT_WITH_SCRATCH = f"""
try:
    {WAIT}
finally:
    click.echo('cleaned up')
"""


def child(action: str, *, stdout: int | None = subprocess.PIPE) -> subprocess.Popen[str]:
    program = f"""
import sys, time, click
from flexnn_ncnn.cli import main as cli
class Ready(cli.Subcommand):
    def load(self):
        return click.Command("try", callback=action)
def action():
{textwrap.indent(action, "    ")}
cli.SUBCOMMANDS["try"] = Ready("", "")
sys.exit(cli.main(["try"]))
"""
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        preexec_fn=heed_signals,
    )


def heed_signals() -> None:
    """In the background, and under nohup, a shell has its children ignore these."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("action", [PRINT_MUCH, "sys.stdout.write(100_000 * 'a line\\n')"])
def test_a_reader_that_leaves_ends_the_command_quietly(
    action: str, unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENVIRONMENT, "PYTHONUNBUFFERED", unbuffered)
    with child(action) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "a line\n"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_ctrl_c_is_one_word_and_status_130() -> None:
    with child(WAIT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "flexnn: error: interrupted\n"
    assert process.returncode == 130


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_terminated_command_cleans_up_after_itself(number: signal.Signals) -> None:
    with child(WAIT_WITH_SCRATCH) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.read() == "cleaned up\n"
    assert process.returncode == 128 + number


def test_the_callers_signal_handlers_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert run(monkeypatch, InputError("bad")) == 1
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("action", ["click.echo('a line')", "sys.stdout.write('a line')", PRINT_MUCH])
def test_output_that_does_not_fit_the_disk_is_an_error(action: str) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with child(action, stdout=full) as process:
            assert process.stderr is not None
            assert process.stderr.read() == "flexnn: error: No space left on device\n"
    finally:
        os.close(full)
    assert process.returncode == 1


def test_a_closed_stdout_is_no_error() -> None:
    command = f"exec '{sys.executable}' -m flexnn_ncnn --help >&-"
    done = subprocess.run(["sh", "-c", command], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_names_a_terminal_cannot_show_are_escaped() -> None:
    with child(r"click.echo('Gr\N{LATIN SMALL LETTER O WITH DIAERESIS}\udcff')") as process:
        assert process.stdout is not None
        assert process.stdout.read() == "Gr\N{LATIN SMALL LETTER O WITH DIAERESIS}\\udcff\n"
    assert process.returncode == 0
