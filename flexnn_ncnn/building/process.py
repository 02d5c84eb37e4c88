"""Running pip and patch: every line they say goes into a log, and is looked at while they run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ["Progress", "reason", "run_logged", "steps_done"]

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is, and how much there is."""

_NINJA = re.compile(r"\[(\d+)/(\d+)\] ")
_MAKE = re.compile(r"\[ *(\d+)%\] ")
_FINAL = ("No space left on device", "externally-managed-environment", "Killed signal", "COMPILER could be found")


def run_logged(
    command: Sequence[str],
    log_path: Path,
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    on_line: Callable[[str], None] | None = None,
) -> tuple[int, list[str]]:
    """Runs a command to its end; whoever interrupts this interrupts what it started, too.

    Args:
        command: program and arguments.
        log_path: a file that its output is added to.
        environment: variables beside the process's own.
        folder: where it runs.
        on_line: sees each line as it comes.

    Returns:
        Exit status, and the lines.
    """
    lines = []
    with (
        open(log_path, "a", encoding="utf-8") as log,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **(environment or {})},
            cwd=folder,
            start_new_session=True,  # compilers are its grandchildren
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                log.write(line)
                lines.append(line.rstrip("\n"))
                if on_line is not None:
                    on_line(lines[-1])
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            raise
    return process.returncode, lines


def steps_done(line: str) -> tuple[int, int] | None:
    """How far a build is, where a line of ninja or make tells it: steps done and steps in all."""
    if found := _NINJA.search(line):
        return int(found[1]), int(found[2])
    if found := _MAKE.search(line):
        return int(found[1]), 100
    return None


def reason(lines: Sequence[str]) -> str:
    """The one line that says most: a known cause, else the first error, else the last words."""
    said = [line.strip() for line in lines if line.strip()]
    for known in _FINAL:
        if found := next((line for line in said if known in line), None):
            return found
    errors = [line for line in said if re.search(r"\berror:|^CMake Error", line, re.IGNORECASE)]
    return (errors or said[-1:] or ["it said nothing"])[0].removeprefix("ERROR: ")
