"""The command as users have it, a process of its own; and in this process, where that is not the point."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import pytest

from flexnn_ncnn.cli.main import main
from flexnn_ncnn.runtime.memory import process_memory

__all__ = ["Done", "flexnn", "flexnn_here"]

ROOT = Path(__file__).resolve().parents[2]


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


def flexnn(*args: object, cache: Path) -> Done:
    """Run `flexnn` with `cache` as its cache folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FLEXNN_CACHE_DIR": str(cache)}
    done = subprocess.run(
        [sys.executable, "-m", "flexnn_ncnn", *map(str, args)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def flexnn_here(*args: object, cache: Path) -> Done:
    """The same in this process, without the half second that a process and its imports take.

    What a run holds is not judged against its budget: this process has what earlier tests left in it.
    """
    out, err = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setenv("FLEXNN_CACHE_DIR", str(cache))
        patch.setattr(process_memory, "peak_is_exact", lambda: False)
        status = main([str(arg) for arg in args])
    return Done(status, out.getvalue(), err.getvalue())
