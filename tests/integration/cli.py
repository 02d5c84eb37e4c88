"""The command as users have it: a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

__all__ = ["Done", "flexnn"]

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
